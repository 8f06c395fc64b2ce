"""Requests for responses as vLLM 0.32 reads them, and the chat that each is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rhizome.render.outcomes import CannotRender
from rhizome.render.responses import chat_of_response
from workers.engine.simulated.server.bodies import (
    ChatBody,
    CheckModel,
    GenerationBody,
    read_object,
    validated,
)
from workers.engine.simulated.server.chat_messages import check_messages
from workers.engine.simulated.server.checks import check_media_arguments, check_salt
from workers.engine.simulated.server.fields import RESPONSE_ORDER, Effort, UnheededInChats
from workers.engine.simulated.server.refusals import (
    Refusal,
    contradiction,
    fault_at,
    malformed,
    unrendered,
)
from workers.engine.simulated.server.response_items import check_supported, fitting_items

_NO_STORE = (
    "This vLLM engine does not support `store=True` and therefore does not support the background"
    " mode. To enable these features, set the environment variable"
    " `VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server."
)
_OTHER_TOOLS = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use_preview",
        "custom",
        "file_search",
        "image_generation",
        "local_shell",
        "mcp",
        "namespace",
        "shell",
        "tool_search",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
_TOOL_FIELDS = (
    *("name", "parameters", "strict", "type", "allowed_callers", "async", "defer_loading"),
    *("description", "output_schema"),
)
_NOT_RENDERED = ("previous_input_messages", "truncation")
_LOGPROBS = "message.output_text.logprobs"
Include = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
]


class ResponseFormatText(BaseModel):
    """These three have OpenAI's names, which are told to clients whose formats fit none."""

    type: Literal["text"]


class ResponseFormatTextJSONSchemaConfig(BaseModel):
    """What is said keeps to a schema."""

    model_config = ConfigDict(populate_by_name=True, protected_namespaces=())

    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    type: Literal["json_schema"]
    description: str | None = None
    strict: bool | None = None


class ResponseFormatJSONObject(BaseModel):
    """What is said is some object."""

    type: Literal["json_object"]


class _Text(BaseModel):
    format: (
        ResponseFormatText | ResponseFormatTextJSONSchemaConfig | ResponseFormatJSONObject | None
    ) = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _ToolChoice(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal[
        "allowed_tools",
        "apply_patch",
        "code_interpreter",
        "computer_use_preview",
        "custom",
        "file_search",
        "function",
        "image_generation",
        "mcp",
        "shell",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    ]


class _Reasoning(BaseModel):
    context: Literal["auto", "all_turns", "current_turn"] | None = None
    effort: Effort | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    mode: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class _Asked(GenerationBody, UnheededInChats):
    """What is asked for, in the fields of responses."""

    input: Annotated[str | list[Any], AfterValidator(fitting_items)]
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    max_tool_calls: int | None = None
    prompt_cache_key: str | None = None
    enable_response_messages: bool = False
    include: list[Include] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    background: bool | None = False
    store: bool | None = True
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] = "auto"
    text: _Text | None = None
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice = "auto"
    tools: list[Any] = Field(default_factory=list)
    top_logprobs: int | None = 0
    truncation: Literal["auto", "disabled"] | None = "disabled"
    reasoning: _Reasoning | None = None
    user: str | None = None

    @property
    def shows_logprobs(self) -> bool:
        return _LOGPROBS in (self.include or ())


class ResponseBody(ChatBody):
    """A request for a response, as the chat that it is."""

    asked: dict[str, Any]
    """What the response repeats."""

    @property
    def limit_name(self) -> str:
        return "max_output_tokens"


def read_response(
    raw: bytes, check_model: CheckModel, tool_parser: bool = False
) -> tuple[ResponseBody, dict[str, Any]]:
    """The body and the chat that renders to its prompt; raises `Refusal`."""
    fields = read_object(raw)
    _check_tool_choice(fields)
    check_salt(fields)
    if fields.get("prompt") is not None:
        raise contradiction("prompt template is not supported", "prompt")
    known = {name: value for name, value in fields.items() if name in RESPONSE_ORDER}
    if known.get("input") == {}:
        known["input"] = []
    asked = validated(_Asked, known, RESPONSE_ORDER)
    _check_tools(asked.tools)
    check_model(asked.model)
    check_supported(asked.input)
    check_media_arguments(known)
    if asked.background:
        raise Refusal(_NO_STORE, param="background", kind="invalid_request_error")
    if asked.previous_response_id is not None:
        raise unknown_response(asked.previous_response_id)
    try:
        chat = chat_of_response(
            {name: value for name, value in known.items() if name not in _NOT_RENDERED}
        )
    except CannotRender as error:
        raise unrendered(error) from error
    check_messages(chat["messages"])
    shared = {name: value for name, value in known.items() if name in GenerationBody.model_fields}
    if asked.truncation == "auto":
        shared["truncate_prompt_tokens"] = chat["truncate_prompt_tokens"] = -1
    body = validated(
        ResponseBody,
        shared
        | {
            "messages": chat["messages"],
            "max_tokens": asked.max_output_tokens,
            "logprobs": asked.shows_logprobs,
            "top_logprobs": asked.top_logprobs,
            "asked": {},
            "response_format": _format(asked),
        }
        | (_forced(asked, chat) if tool_parser else {}),
    )
    body.asked = _repeated(asked)
    return body, chat


def _forced(asked: _Asked, chat: Mapping[str, Any]) -> dict[str, Any]:
    """The tools of the chat and which of them has to be called, if any."""
    choice: Any = asked.tool_choice
    if isinstance(choice, _ToolChoice):
        named = (choice.model_extra or {}).get("name")
        choice = {"type": "function", "function": {"name": named}}
    return {"tools": chat.get("tools"), "tool_choice": choice}


def unknown_response(response_id: str) -> Refusal:
    """Nothing is stored, so nothing is found."""
    return Refusal(
        f"Response with id '{response_id}' not found.",
        param="response_id",
        status=404,
        kind="invalid_request_error",
    )


def _check_tool_choice(fields: Mapping[str, Any]) -> None:
    """Whether there is what has to be called."""
    choice, tools = fields.get("tool_choice"), fields.get("tools")
    if choice == "required" and not tools:
        words = "Tool choice 'required' must be specified with 'tools' parameter."
        raise contradiction(words, "tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function":
        known = tools if isinstance(tools, list) else []
        names = [tool.get("name") for tool in known if isinstance(tool, dict)]
        if choice.get("name") is None or choice["name"] not in names:
            words = "Tool choice 'function' not found in 'tools' parameter."
            raise contradiction(words, "tool_choice")


def _check_tools(tools: list[Any]) -> None:
    """Functions need a name; of other tools it is the type that is checked."""
    for at, tool in enumerate(tools):
        if not isinstance(tool, dict):
            place = ("body", "tools", at, "FunctionTool")
            words = "Input should be a valid dictionary or object to extract fields from"
            raise malformed([fault_at("model_attributes_type", place, words, tool)])
    faults = [
        fault_at("missing", ("body", "tools", at, "FunctionTool", name), "Field required", tool)
        for at, tool in enumerate(tools)
        if tool.get("type") not in _OTHER_TOOLS
        for name in ("name", "type")
        if not isinstance(tool.get(name), str)
    ]
    if faults:
        raise malformed(faults)


def _format(asked: _Asked) -> dict[str, Any] | None:
    """The format that is asked for, as chats ask for it."""
    wanted = None if asked.text is None else asked.text.format
    if wanted is None:
        return None
    fields = wanted.model_dump(by_alias=True)
    return {"type": "json_schema", "json_schema": fields} if "schema" in fields else fields


def _told_choice(asked: _Asked) -> Any:
    if isinstance(asked.tool_choice, _ToolChoice):
        return asked.tool_choice.model_dump()
    return asked.tool_choice if asked.tools else "none"


def _repeated(asked: _Asked) -> dict[str, Any]:
    tools = [{name: tool.get(name) for name in _TOOL_FIELDS} for tool in asked.tools]
    return {
        "instructions": asked.instructions,
        "metadata": asked.metadata,
        "model": None,
        "object": "response",
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "tool_choice": _told_choice(asked),
        "tools": tools,
        "top_p": 1.0 if asked.top_p is None or asked.temperature == 0 else asked.top_p,
        "background": False,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None if asked.reasoning is None else asked.reasoning.model_dump(),
        "service_tier": "auto",
        "status": "",
        "text": None if asked.text is None else asked.text.model_dump(by_alias=True),
        "top_logprobs": (asked.top_logprobs or 0) if asked.shows_logprobs else None,
        "truncation": asked.truncation,
        "usage": None,
        "user": asked.user,
        "presence_penalty": asked.presence_penalty or 0.0,
        "frequency_penalty": asked.frequency_penalty or 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }
