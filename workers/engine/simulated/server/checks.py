"""What vLLM 0.32 looks at before the types of a body's fields, in its order."""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticKnownError

from workers.engine.simulated.server.constraints import check_formats
from workers.engine.simulated.server.refusals import (
    Refusal,
    contradiction,
    out_of_range,
)

PROMPTS_MAX = 1024
"""Prompts in one request."""
_SALT_CHARS_MAX = 128
_NOT_IN_SALTS = set("@/\\\0")
_USAGE = 'Correct usage: `{"type": "function", "function": {"name": "my_function"}}`'


def check_completion(fields: dict[str, Any]) -> None:
    """Raises `Refusal`, as all checks here."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) > PROMPTS_MAX and not _are_ids(prompt):
        raise contradiction(
            f"prompt list length {len(prompt)} exceeds the maximum allowed count of "
            f"{PROMPTS_MAX}. To increase this limit, set the VLLM_MAX_COMPLETION_PROMPTS "
            "environment variable.",
            "prompt",
        )
    if prompt in (None, "") and fields.get("prompt_embeds") in (None, []):
        raise contradiction(
            "Either prompt or prompt_embeds must be provided and non-empty.", "prompt"
        )
    _check_stream_options(fields)
    if fields.get("use_beam_search") and fields.get("echo") and fields.get("logprobs") is not None:
        words = "`echo` with `logprobs` is not supported with beam search"
        reason = "because beam search does not compute prompt logprobs."
        raise contradiction(f"{words} {reason}", "echo")
    _check_candidates(fields, set_to="")
    _check_logprobs(fields, "logprobs")
    check_formats(fields, named="structured_outputs")
    check_salt(fields)


def check_chat(fields: dict[str, Any]) -> None:
    """Fills in the choice of tools where none was made."""
    if fields.get("continue_final_message") and fields.get("add_generation_prompt"):
        raise Refusal(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
    _check_tools(fields)
    _check_candidates(fields, set_to=" to true")
    _check_logprobs(fields, "top_logprobs")
    if fields.get("top_logprobs") and not fields.get("logprobs"):
        words = "when using `top_logprobs`, `logprobs` must be set to true."
        raise contradiction(words, "top_logprobs")
    _check_stream_options(fields)
    check_formats(fields)
    check_salt(fields)


def check_salt(fields: dict[str, Any]) -> None:
    salt = fields.get("cache_salt")
    if salt is not None and (not isinstance(salt, str) or not salt):
        words = "Parameter 'cache_salt' must be a non-empty string if provided."
        raise contradiction(words, "cache_salt")
    if salt is not None and (len(salt) > _SALT_CHARS_MAX or _NOT_IN_SALTS & set(salt)):
        words = "Parameter 'cache_salt' must be at most 128 characters and must not contain"
        raise contradiction(f"{words} '@', '/', '\\\\', or NUL.", "cache_salt")


def named(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice of one tool, which has to be a function."""
    if choice.get("type", "function") != "function":
        raise PydanticKnownError("literal_error", {"expected": "'function'"})
    return choice


def check_tool_choice(choice: str | dict[str, Any] | None) -> None:
    """Tool calls need a parser, and this engine was started without one."""
    if choice == "auto":
        raise Refusal(
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        )
    if choice == "required":
        raise Refusal('tool_choice="required" requires --tool-call-parser to be set')
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        raise Refusal(f'tool_choice=function "{name}" requires --tool-call-parser to be set')


def _are_ids(prompt: list[Any]) -> bool:
    return all(isinstance(one, int) for one in prompt)


def _check_stream_options(fields: dict[str, Any]) -> None:
    if fields.get("stream_options") and not fields.get("stream"):
        words = "Stream options can only be defined when `stream=True`."
        raise contradiction(words, "stream_options")


def _check_logprobs(fields: dict[str, Any], shown: str) -> None:
    """`shown` is the field that says how many candidates are shown of each token."""
    for name in ("prompt_logprobs", shown):
        value = fields.get(name)
        if value is not None and not isinstance(value, int | float):
            raise out_of_range(f"`{name}` must be an integer.", name, value)
    asked = fields.get("prompt_logprobs")
    if asked is not None and fields.get("stream") and (asked > 0 or asked == -1):
        words = "`prompt_logprobs` are not available when `stream=True`."
        raise contradiction(words, "prompt_logprobs")
    for name in ("prompt_logprobs", shown):
        value = fields.get(name)
        if value is not None and value < 0 and value != -1:
            raise out_of_range(f"`{name}` must be a positive value or -1.", name, value)


def _check_candidates(fields: dict[str, Any], set_to: str) -> None:
    """Whether the tokens that log probabilities are asked of can be shown."""
    name = "logprob_token_ids"
    if not fields.get(name):
        return
    if fields.get("use_beam_search"):
        raise contradiction(f"`{name}` is not supported with beam search.", name)
    if not set_to and fields.get("echo") and fields.get("max_tokens", 1) == 0:
        words = f"`{name}` is not supported when `echo=True` and `max_tokens=0`"
        raise contradiction(f"{words} because no output tokens are generated.", name)
    shown = fields.get("logprobs")
    if shown is None or (set_to and not shown):
        raise contradiction(f"when using `{name}`, `logprobs` must be set{set_to}.", name)


def check_media_arguments(fields: dict[str, Any]) -> None:
    """Nobody may say how media are read unless the engine was told to trust its clients."""
    for name, of in (
        ("mm_processor_kwargs", "preprocessing"),
        ("media_io_kwargs", "media loading"),
    ):
        if fields.get(name):
            raise contradiction(
                f"Per-request {name} are disabled by default because they can change multimodal "
                f"{of} resource usage. Start the server with --trust-request-mm-kwargs only when "
                "clients are trusted.",
                name,
            )


def _check_tools(fields: dict[str, Any]) -> None:
    tools = fields.get("tools")
    if tools == []:
        raise contradiction(
            "`tools` must not be an empty array. "
            "Either provide at least one tool or omit the field entirely.",
            "tools",
        )
    if "tool_choice" not in fields and tools:
        fields["tool_choice"] = "auto"
    choice = fields.get("tool_choice")
    if choice in (None, "none"):
        return
    if tools is None:
        raise contradiction("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if choice not in ("auto", "required") and not isinstance(choice, dict):
        raise contradiction(
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or '
            '"required" are supported.',
            "tool_choice",
        )
    if isinstance(choice, dict):
        _check_named(tools, choice.get("function"))


def _check_named(tools: Any, function: Any) -> None:
    """Whether there is a tool of that name."""
    at = "tool_choice.function"
    if not isinstance(function, dict):
        words = f"Invalid value for `function`: `{function}` in `tool_choice`! {_USAGE}"
        raise contradiction(words, at)
    if "name" not in function:
        words = f"Expected field `name` in `function` in `tool_choice`! {_USAGE}"
        raise contradiction(words, f"{at}.name")
    name = function["name"]
    if not isinstance(name, str) or not name:
        words = f"Invalid `name` in `function`: `{name}` in `tool_choice`! {_USAGE}"
        raise contradiction(words, f"{at}.name")
    known = [(tool.get("function") or {}).get("name") for tool in tools if isinstance(tool, dict)]
    if name not in known:
        raise contradiction(
            "The tool specified in `tool_choice` does not match any of the specified `tools`",
            "tool_choice",
        )
