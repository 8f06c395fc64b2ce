"""Reads an upload: `multipart/form-data`, bounded in bytes, fields and time without data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from rhizome.errors import BodyTooLarge, ClientLeft, InvalidRequest, UnsupportedMediaType

_FORM_BYTES_MAX = 64 * 1024
"""What the form may need beside the file."""
_SILENCE_S_MAX = 60.0


async def read_upload(request: Request, file_bytes_max: int) -> tuple[UploadFile, str]:
    """The file, spooled to disk when it is long, and its purpose; the caller closes the file.

    Raises `BodyTooLarge` at the first byte over the limit, `UnsupportedMediaType` for a body that
    is no form, `InvalidRequest` for a form without the two fields.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise UnsupportedMediaType("send the file as multipart/form-data")
    form = await _read_form(request, file_bytes_max)
    file, purpose = form.get("file"), form.get("purpose")
    if isinstance(file, UploadFile) and isinstance(purpose, str):
        if (file.size or 0) <= file_bytes_max:
            return file, purpose
        await form.close()
        raise _too_large(file_bytes_max)
    await form.close()
    missing = "purpose" if isinstance(file, UploadFile) else "file"
    raise InvalidRequest(f"the form has no {missing!r}", param=missing)


async def _read_form(request: Request, file_bytes_max: int) -> FormData:
    stream = _bounded(request, file_bytes_max)
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=16)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"the form cannot be read: {error.message}") from error
    except ClientDisconnect as error:
        raise ClientLeft("the client left while it was sending") from error
    except TimeoutError as error:
        raise InvalidRequest(f"nothing arrived for {_SILENCE_S_MAX:.0f} s") from error
    finally:
        await stream.aclose()


async def _bounded(request: Request, file_bytes_max: int) -> AsyncGenerator[bytes, None]:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > file_bytes_max + _FORM_BYTES_MAX:
        raise _too_large(file_bytes_max)
    size = 0
    async with aclosing(request.stream()) as stream:
        while True:
            try:
                async with asyncio.timeout(_SILENCE_S_MAX):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            size += len(chunk)
            if size > file_bytes_max + _FORM_BYTES_MAX:
                raise _too_large(file_bytes_max)
            yield chunk


def _too_large(file_bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the file is longer than {file_bytes_max} bytes (batch.file_bytes_max)", param="file"
    )
