"""Requests for responses as vLLM 0.32 reads them, and the chat that each is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rhizome.render.outcomes import CannotRender
from rhizome.render.responses import chat_of_response
from workers.engine.simulated.server.bodies import (
    ChatBody,
    GenerationBody,
    read_object,
    validated,
)
from workers.engine.simulated.server.checks import check_salt
from workers.engine.simulated.server.fields import RESPONSE_ORDER
from workers.engine.simulated.server.refusals import Refusal, contradiction, fault_at, malformed

_NO_STORE = (
    "This vLLM engine does not support `store=True` and therefore does not support the background"
    " mode. To enable these features, set the environment variable"
    " `VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server."
)
_TOOL_FIELDS = (
    *("name", "parameters", "strict", "type", "allowed_callers", "async", "defer_loading"),
    *("description", "output_schema"),
)
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


class _Asked(GenerationBody):
    """What is asked for, in the fields of responses."""

    input: str | list[Any]
    include: list[Include] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    background: bool | None = False
    store: bool | None = True
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = True
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] = "auto"
    text: _Text | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] = "auto"
    tools: list[dict[str, Any]] = Field(default_factory=list)
    top_logprobs: int | None = 0
    truncation: Literal["auto", "disabled"] | None = "disabled"
    reasoning: dict[str, Any] | None = None
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


def read_response(raw: bytes, tool_parser: bool = False) -> tuple[ResponseBody, dict[str, Any]]:
    """The body and the chat that renders to its prompt; raises `Refusal`."""
    fields = read_object(raw)
    _check_tool_choice(fields)
    check_salt(fields)
    asked = validated(_Asked, fields, RESPONSE_ORDER)
    _check_tools(asked.tools)
    if asked.background:
        raise Refusal(_NO_STORE, param="background", kind="invalid_request_error")
    if asked.previous_response_id is not None:
        raise unknown_response(asked.previous_response_id)
    try:
        chat = chat_of_response(fields)
    except CannotRender as error:
        raise Refusal(f"The prompt cannot be rendered: {error}") from error
    shared = {name: value for name, value in fields.items() if name in GenerationBody.model_fields}
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
    choice = asked.tool_choice
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
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
        if choice.get("name") not in names:
            words = "Tool choice 'function' not found in 'tools' parameter."
            raise contradiction(words, "tool_choice")


def _check_tools(tools: list[dict[str, Any]]) -> None:
    """Functions need a name; of other tools there is nothing to check here."""
    faults = [
        fault_at("missing", ("body", "tools", at, "FunctionTool", name), "Field required", tool)
        for at, tool in enumerate(tools)
        if tool.get("type", "function") == "function"
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


def _repeated(asked: _Asked) -> dict[str, Any]:
    tools = [{name: tool.get(name) for name in _TOOL_FIELDS} for tool in asked.tools]
    return {
        "instructions": asked.instructions,
        "metadata": asked.metadata,
        "model": None,
        "object": "response",
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls,
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "tool_choice": asked.tool_choice if tools else "none",
        "tools": tools,
        "top_p": 1.0 if asked.top_p is None or asked.temperature == 0 else asked.top_p,
        "background": False,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": asked.reasoning,
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
