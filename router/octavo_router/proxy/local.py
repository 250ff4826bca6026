"""What the router answers without asking a pod: the list of models, and paths that do not exist."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import msgspec

from octavo_router.endpoints import Registry
from octavo_router.errors import InvalidRequestError, MethodNotAllowedError, NotFoundError
from octavo_router.proxy.heads import RequestHead
from octavo_router.routing import ModelCard

_MODELS = b"/v1/models"


class ModelList(msgspec.Struct, frozen=True):
    data: list[ModelCard]
    object: str = "list"


def origin_form(target: bytes) -> bytes:
    """The path and query of a request target, that of an absolute one included (RFC 9112, 3.2.2)."""
    if target.startswith(b"/"):
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise InvalidRequestError(f"The request's target {_shown(target)!r} is not a path.")
    return b"/" + rest.partition(b"/")[2]


def _shown(target: bytes) -> str:
    return target[:100].decode("latin-1")


def answer(head: RequestHead, registry: Registry) -> bytes | None:
    """The JSON body of an answer of the router's own, or None for a request that a pod is to answer.

    Raises:
        NotFoundError, UnknownModelError, MethodNotAllowedError, InvalidRequestError
    """
    path = origin_form(head.target).partition(b"?")[0]
    if not path.startswith(b"/v1/") or b"/../" in path + b"/" or b"%2e" in path.lower():
        raise NotFoundError(f"There is no {_shown(path)!r} here; the OpenAI API is under /v1/.")
    if path == _MODELS or path.startswith(_MODELS + b"/"):
        return _models(head.method, path, registry)
    if head.method != b"POST":
        raise MethodNotAllowedError(f"{head.method.decode()} is not served at {_shown(path)}; use POST.")
    return None


def _models(method: bytes, path: bytes, registry: Registry) -> bytes:
    if method != b"GET":
        raise MethodNotAllowedError(f"{method.decode()} is not served at {_shown(path)}; use GET.")
    if path in (_MODELS, _MODELS + b"/"):
        return msgspec.json.encode(ModelList(registry.cards()))
    name = unquote_to_bytes(path[len(_MODELS) + 1 :]).decode("utf-8", "replace")
    return msgspec.json.encode(registry.card(name))
