"""The model that a request body names. Pure."""

from __future__ import annotations

import msgspec

from octavo_router.errors import InvalidRequestError, MissingModelError


class _Named(msgspec.Struct, gc=False):
    """The one field of a body that the router reads; the others are skipped, not built."""

    model: str


_decode = msgspec.json.Decoder(_Named).decode


def model_of(body: bytes) -> str:
    """The model that a request body names.

    Raises:
        InvalidRequestError: the body is not a JSON object.
        MissingModelError: it has no `model`, or that is not a string.
    """
    try:
        return _decode(body).model
    except msgspec.ValidationError as error:
        raise MissingModelError(f"The body must be a JSON object with the string `model`: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}.") from None
