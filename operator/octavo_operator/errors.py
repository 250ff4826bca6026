"""Everything the operator raises on purpose.

OctavoError
├── SettingsError        a setting of the operator is wrong: it does not start
├── LeadershipLostError  another replica may lead: this one ends
└── ApiError             the API server said no
    ├── UnreachableError      no answer, or a server-side failure: worth trying again
    ├── NotFoundError         404
    ├── AlreadyExistsError    a create met an object of that name
    ├── ConflictError         the object is not the one that the write was meant for
    ├── ExpiredError          410: the watch must start over
    └── RefusedError          the request itself is not acceptable: a person has to change something
"""


class OctavoError(Exception):
    """The root; its text is one sentence for a person."""


class SettingsError(OctavoError):
    """A setting has a value that cannot be used."""


class LeadershipLostError(OctavoError):
    """The Lease was not renewed in time, or another holds it."""


class ApiError(OctavoError):
    """An answer of the API server that is not a success."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class UnreachableError(ApiError):
    """No answer, 401, 429, or 5xx."""


class NotFoundError(ApiError):
    """The object, or its namespace, is not there."""


class AlreadyExistsError(ApiError):
    """There is an object of that name."""


class ConflictError(ApiError):
    """The object is not the one that the write was meant for."""


class ExpiredError(ApiError):
    """The resource version asked for is no longer known."""


class RefusedError(ApiError):
    """Invalid, forbidden, or denied by admission."""


_OUT_OF_SCHEMA = "failed to create typed patch object"
"""A server-side apply of an unknown field is answered with 500."""

_KINDS: dict[int, type[ApiError]] = {
    401: UnreachableError,
    404: NotFoundError,
    409: ConflictError,
    410: ExpiredError,
    429: UnreachableError,
}


def from_status(status: int, reason: str, message: str) -> ApiError:
    """Return the error that stands for an HTTP status of the API server."""
    if reason == "AlreadyExists":
        return AlreadyExistsError(status, reason, message)
    if _OUT_OF_SCHEMA in message:
        return RefusedError(status, reason, message)
    kind = _KINDS.get(status, RefusedError if 400 <= status < 500 else UnreachableError)
    return kind(status, reason, message)
