"""What the router itself answers when a request cannot be served, as OpenAI error objects.

RouterError
├── InvalidRequestError      400  the body or the head is not what the OpenAI API wants
│   ├── WrongKeyError        401  no API key, or one that is not known
│   ├── NotFoundError        404  no such path
│   │   └── UnknownModelError     no deployment has this name
│   ├── MethodNotAllowedError 405
│   ├── RequestTimeoutError  408  the client sends too slowly
│   ├── BodyTooLargeError    413
│   ├── ExpectationFailedError 417
│   ├── TokenRateError       429  the API key has used its tokens for now
│   └── HeadTooLargeError    431
├── NoReadyPodError          503  the deployment exists, but no pod can take the request now
├── UnreachableError         503  pods are ready, but none answered
├── OverloadedError          503  the router holds all the bodies it may
├── BadUpstreamError         502  the pod's answer is not HTTP, or ended in its midst
├── UpstreamTimeoutError     504  the pod is silent for too long
└── SettingsError            not an answer: a setting is wrong; ends the process with code 2
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(msgspec.Struct, frozen=True):
    """The shape that OpenAI clients turn into exceptions."""

    error: ErrorBody


class RouterError(Exception):
    """One sentence for the user, and the fields of the answer that carries it."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    param: ClassVar[str | None] = None
    retry_after_s: int | None = None

    def body(self) -> bytes:
        """The OpenAI error object, as JSON."""
        return msgspec.json.encode(ErrorObject(ErrorBody(str(self), self.kind, self.param, self.code)))


class InvalidRequestError(RouterError):
    status = 400
    kind = "invalid_request_error"


class WrongKeyError(InvalidRequestError):
    status = 401
    code = "invalid_api_key"


class TokenRateError(InvalidRequestError):
    status = 429
    kind = "tokens"
    code = "rate_limit_exceeded"

    def __init__(self, sentence: str, retry_after_s: int) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class MissingModelError(InvalidRequestError):
    param = "model"
    code = "missing_model"


class NotFoundError(InvalidRequestError):
    status = 404
    code = "not_found"


class UnknownModelError(NotFoundError):
    param = "model"
    code = "model_not_found"


class MethodNotAllowedError(InvalidRequestError):
    status = 405
    code = "method_not_allowed"


class RequestTimeoutError(InvalidRequestError):
    status = 408
    code = "request_timeout"


class BodyTooLargeError(InvalidRequestError):
    status = 413
    code = "request_too_large"


class ExpectationFailedError(InvalidRequestError):
    status = 417
    code = "expectation_failed"


class HeadTooLargeError(InvalidRequestError):
    status = 431
    code = "headers_too_large"


class VersionNotSupportedError(InvalidRequestError):
    status = 505
    code = "http_version_not_supported"


class NoReadyPodError(RouterError):
    status = 503
    code = "no_ready_pod"
    retry_after_s = 5


class UnreachableError(RouterError):
    status = 503
    code = "pods_unreachable"
    retry_after_s = 1


class OverloadedError(RouterError):
    status = 503
    code = "router_overloaded"
    retry_after_s = 1


class BadUpstreamError(RouterError):
    status = 502
    code = "bad_upstream"


class UpstreamTimeoutError(RouterError):
    status = 504
    code = "upstream_timeout"


class SettingsError(Exception):
    """A setting or the static file is wrong; the message names it, with its value, and what to do."""
