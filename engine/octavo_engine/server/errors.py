"""Errors as OpenAI error objects: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from octavo_engine.errors import EngineError, RequestError

_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_body(error: EngineError) -> bytes:
    """The JSON error object of any engine error."""
    refused = error if isinstance(error, RequestError) else unavailable(str(error))
    return msgspec.json.encode(
        {
            "error": {
                "message": str(refused),
                "type": refused.kind,
                "param": refused.param,
                "code": refused.code or refused.status,
            }
        }
    )


def error_response(error: EngineError) -> Response:
    """The HTTP answer to a request that failed before its first byte."""
    refused = error if isinstance(error, RequestError) else unavailable(str(error))
    headers = {"Retry-After": str(refused.retry_after)} if refused.retry_after is not None else {}
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(error_body(refused), refused.status, headers, media_type="application/json")


def unavailable(message: str, retry_after: int = 5) -> RequestError:
    """503: this server cannot serve now; another one, or this one later, can."""
    return RequestError(message, status=503, kind="service_unavailable", retry_after=retry_after)


def failed(message: str, status: int = 500) -> RequestError:
    """A failure told by the core for one request alone."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    full = status == 429
    return RequestError(
        message,
        status=status,
        kind=kind,
        code="queue_full" if full else None,
        retry_after=1 if full else None,
    )
