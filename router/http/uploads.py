"""Bodies with a file in them: audio to transcribe, as `multipart/form-data`.

The form goes to the engine byte for byte; only the model's name is looked at, and replaced where
another model shall serve.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import python_multipart
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from rhizome.errors import InvalidRequest, MalformedBody
from router.http.bodies import EngineBody

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_PARTS_MAX = 64
_FIELDS = frozenset({"model", "stream"})
_VALUE_BYTES_MAX = 256


class UploadBody(EngineBody, frozen=True, dict=True):
    """A form with a file. Nothing of it is a prefix of anything."""

    usage_on_request = False
    model_at: tuple[int, int] = (0, 0)
    """Where in `raw` the model's name begins and ends."""

    @cached_property
    def for_engine(self) -> bytes:
        """The form as it came, but for the model's name."""
        if self.model == self.fields["model"]:
            return self.raw
        begin, end = self.model_at
        return self.raw[:begin] + self.model.encode() + self.raw[end:]


class _Form:
    """Where the values of the few interesting fields are."""

    def __init__(self) -> None:
        self.spans: dict[str, tuple[int, int]] = {}
        self._name = ""
        self._header = b""
        self._header_name = b""
        self._parts = 0
        self.is_whole = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_end": self._end,
            "on_part_begin": self._begin,
            "on_header_field": self._add_name,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _PARTS_MAX:
            raise MalformedBody(f"the form has more than {_PARTS_MAX} parts")
        self._name = ""

    def _end(self) -> None:
        self.is_whole = True

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            name = (
                parse_options_header(self._header)[1].get(b"name", b"").decode("utf-8", "replace")
            )
            if name in _FIELDS and name in self.spans:
                raise MalformedBody(f"the form has {name!r} twice")
            self._name = name
        self._header_name = self._header = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name not in _FIELDS:
            return
        begin, before = self.spans.get(self._name, (start, start))
        if before != start or end - begin > _VALUE_BYTES_MAX:
            raise MalformedBody(f"the form's {self._name!r} is no short text")
        self.spans[self._name] = (begin, end)


def read_audio(data: bytes, content_type: str) -> UploadBody:
    """A body of `/v1/audio/transcriptions`; raises `MalformedBody` or `InvalidRequest`."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedBody("the content type names no boundary between the form's parts")
    form = _Form()
    try:
        parser = python_multipart.MultipartParser(boundary, form.callbacks())
        parser.write(data)
        parser.finalize()
    except FormParserError as error:
        raise MalformedBody("the body is not the form that its content type says") from error
    if not form.is_whole:
        raise MalformedBody("the form breaks off before its end")
    fields: dict[str, object] = {}
    for name, (begin, end) in form.spans.items():
        fields[name] = data[begin:end].decode("utf-8", "replace")
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("the form needs a field 'model'; see /v1/models", param="model")
    fields["stream"] = str(fields.get("stream")).lower() in ("true", "1")
    return UploadBody(data, fields, model, content_type=content_type, model_at=form.spans["model"])
