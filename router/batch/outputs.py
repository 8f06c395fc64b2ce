"""How a line's end is written in the output and error files, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

import msgspec

from rhizome.stores.lines import LineResult


def answered(
    batch_id: str, index: int, custom_id: str, status: int, answer: tuple[str, Any]
) -> LineResult:
    """A line that the router answered with `answer`, its request id and decoded body."""
    request_id, body = answer
    response = {"status_code": status, "request_id": request_id, "body": body}
    output = _line(batch_id, index, custom_id, response=response, error=None)
    return LineResult(output, failed=status != 200)


def not_answered(
    batch_id: str, index: int, custom_id: str | None, code: str, message: str
) -> LineResult:
    """A line that has no answer, and why."""
    error = {"code": code, "message": message}
    return LineResult(_line(batch_id, index, custom_id, response=None, error=error), failed=True)


def _line(batch_id: str, index: int, custom_id: str | None, *, response: Any, error: Any) -> bytes:
    return msgspec.json.encode(
        {
            "id": f"batch_req_{batch_id.removeprefix('batch-')}_{index}",
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
    )
