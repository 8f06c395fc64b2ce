"""Every error Rhizome raises on purpose.

RhizomeError
├── RequestError                    the answer to one request; translated once, at the HTTP border
│   ├── InvalidRequest              400
│   │   ├── MalformedBody           400
│   │   ├── MalformedHttp           400
│   │   ├── PromptTooLong           400
│   │   ├── MediaRefused            400
│   │   ├── MediaUnavailable        400
│   │   ├── RequestTimeout          408
│   │   ├── BodyTooLarge            413
│   │   ├── UnsupportedMediaType    415
│   │   └── HeadTooLong             431
│   ├── AuthenticationFailed        401
│   ├── UnknownRoute                404
│   ├── UnknownModel                404
│   ├── UnknownObject               404
│   ├── MethodNotAllowed            405
│   ├── Conflict                    409
│   ├── QueueFull                   429
│   ├── QueueTimeout                429
│   ├── ClientLeft                  499 (never sent: nobody is there to read it)
│   ├── InternalFault               500
│   ├── WorkerUnreachable           502
│   ├── WorkerFaulted               502
│   ├── WorkerDiedMidStream         502
│   ├── NoHealthyWorker             503
│   │   └── NotReady                503
│   ├── StoreUnavailable            503
│   ├── WorkerTimeout               504
│   └── DeadlinePassed              504
└── StartError                      why a process cannot start; the CLI prints it and exits
    ├── SettingsError               exit 2
    ├── PortInUse                   exit 3
    ├── ModelUnusable               exit 4
    ├── NotEnoughMemory             exit 5
    ├── StoreUnreachable            exit 6
    ├── EngineFailed                exit 7
    ├── MissingDependency           exit 8
    ├── ClusterError                exit 9
    ├── TraceError                  exit 10
    └── TargetUnusable              exit 11

`code` is stable snake case: clients, metrics and docs may rely on it.
"""

from __future__ import annotations

from typing import ClassVar


class RhizomeError(Exception):
    """The root; never raised itself."""


class RequestError(RhizomeError):
    """One request's failure, in the terms of OpenAI's error object."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed elsewhere or later."""

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's error object: `{"error": {message, type, param, code}}`."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


class InvalidRequest(RequestError):
    code, status, kind = "invalid_request", 400, "invalid_request_error"


class MalformedBody(InvalidRequest):
    code = "malformed_body"


class PromptTooLong(InvalidRequest):
    code = "context_length_exceeded"


class MediaRefused(InvalidRequest):
    code = "media_url_not_allowed"


class MediaUnavailable(InvalidRequest):
    code = "media_unavailable"


class MalformedHttp(InvalidRequest):
    code = "malformed_http"


class RequestTimeout(InvalidRequest):
    code, status = "request_timeout", 408


class HeadTooLong(InvalidRequest):
    code, status = "head_too_long", 431


class BodyTooLarge(InvalidRequest):
    code, status = "body_too_large", 413


class UnsupportedMediaType(InvalidRequest):
    code, status = "unsupported_media_type", 415


class AuthenticationFailed(RequestError):
    code, status, kind = "invalid_api_key", 401, "authentication_error"


class UnknownRoute(RequestError):
    code, status, kind = "unknown_route", 404, "invalid_request_error"


class UnknownModel(RequestError):
    code, status, kind = "model_not_found", 404, "invalid_request_error"


class UnknownObject(RequestError):
    code, status, kind = "not_found", 404, "invalid_request_error"


class MethodNotAllowed(RequestError):
    code, status, kind = "method_not_allowed", 405, "invalid_request_error"


class Conflict(RequestError):
    code, status, kind = "conflict", 409, "invalid_request_error"


class QueueFull(RequestError):
    code, status, kind, retryable = "queue_full", 429, "rate_limit_error", True


class QueueTimeout(RequestError):
    code, status, kind, retryable = "queue_timeout", 429, "rate_limit_error", True


class ClientLeft(RequestError):
    code, status = "client_left", 499


class InternalFault(RequestError):
    pass


class WorkerUnreachable(RequestError):
    code, status, retryable = "worker_unreachable", 502, True


class WorkerFaulted(RequestError):
    code, status, retryable = "worker_faulted", 502, True


class WorkerDiedMidStream(RequestError):
    code, status = "worker_died_mid_stream", 502


class NoHealthyWorker(RequestError):
    code, status, retryable = "no_healthy_worker", 503, True


class NotReady(NoHealthyWorker):
    """The router has not met its workers yet, so it cannot say which models there are."""

    code = "not_ready"


class StoreUnavailable(RequestError):
    code, status, retryable = "store_unavailable", 503, True


class WorkerTimeout(RequestError):
    code, status = "worker_timeout", 504


class DeadlinePassed(RequestError):
    """The time is over that the client gave its request."""

    code, status = "deadline_passed", 504


class StartError(RhizomeError):
    """Why a process cannot start: what is wrong (`message`) and what to do next (`advice`)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


class SettingsError(StartError):
    exit_code = 2


class PortInUse(StartError):
    exit_code = 3


class ModelUnusable(StartError):
    exit_code = 4


class NotEnoughMemory(StartError):
    exit_code = 5


class StoreUnreachable(StartError):
    exit_code = 6


class EngineFailed(StartError):
    exit_code = 7


class MissingDependency(StartError):
    exit_code = 8


class ClusterError(StartError):
    exit_code = 9


class TraceError(StartError):
    """A workload's file is not as it should be; the message names file and line."""

    exit_code = 10


class TargetUnusable(StartError):
    """What a load test is aimed at does not answer, or does not serve the model."""

    exit_code = 11
