"""The error tree.

EngineError                what a user reads as one sentence; never a traceback
├── ConfigError            a setting is wrong: exit code 2
│   ├── ModelNotFound      the model source leads to nothing usable
│   └── DownloadRefused    access, space or checksums: a person has to change something
├── DownloadFailed         the model cannot be had now; another try may succeed
├── ModelError             the model's files are unsound or of an unknown kind
├── OutOfMemory            weights or KV cache do not fit; the message names the setting to lower and to what
├── CoreDied               the engine core's process ended; the API answers 503 and exits 1
└── RequestError           one request is refused; carries the HTTP status and the OpenAI error fields
"""

from __future__ import annotations

_LONGEST = 200  # characters of what another library says


class EngineError(Exception):
    """Base of all errors that reach a user; ``str()`` is a full sentence."""

    exit_code = 1


class ConfigError(EngineError):
    exit_code = 2


class ModelNotFound(ConfigError):
    pass


class DownloadRefused(ConfigError):
    pass


class DownloadFailed(EngineError):
    """``retry_after``: seconds that the server asks for, when it does."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelError(EngineError):
    pass


class OutOfMemory(EngineError):
    pass


class CoreDied(EngineError):
    pass


class RequestError(EngineError):
    """A request refused. ``status`` is the HTTP status; ``param`` names the parameter at fault."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after


def in_one_line(error: Exception) -> str:
    """Its kind and the first line of what it says: libraries say more than a sentence has room for."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said[:_LONGEST]}" if said else type(error).__name__
