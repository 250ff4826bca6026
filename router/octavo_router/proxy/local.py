"""What the router answers without asking a pod: the list of models, and paths that do not exist."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import msgspec

from octavo_router.errors import MethodNotAllowedError, NotFoundError
from octavo_router.proxy.heads import RequestHead
from octavo_router.registry import Registry
from octavo_router.routing import ModelCard

_MODELS = b"/v1/models"
_ALWAYS_PROXIED = frozenset((b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings"))


class ModelList(msgspec.Struct, frozen=True):
    data: list[ModelCard]
    object: str = "list"


def _shown(target: bytes) -> str:
    return target[:100].decode("latin-1")


def answer(head: RequestHead, registry: Registry, namespace: str | None = None) -> bytes | None:
    """The JSON body of an answer of the router's own, or None for a request that a pod is to answer.

    `namespace`: the one whose models may be asked for; None: all.

    Raises:
        NotFoundError, UnknownModelError, MethodNotAllowedError
    """
    if head.target in _ALWAYS_PROXIED and head.method == b"POST":
        return None
    path = head.target.partition(b"?")[0]
    if not path.startswith(b"/v1/") or b"/../" in path + b"/" or b"%2e" in path.lower():
        raise NotFoundError(f"There is no {_shown(path)!r} here; the OpenAI API is under /v1/.")
    if path == _MODELS or path.startswith(_MODELS + b"/"):
        return _models(head.method, path, registry, namespace)
    if head.method != b"POST":
        raise MethodNotAllowedError(f"{head.method.decode()} is not served at {_shown(path)}; use POST.")
    return None


def _models(method: bytes, path: bytes, registry: Registry, namespace: str | None) -> bytes:
    if method != b"GET":
        raise MethodNotAllowedError(f"{method.decode()} is not served at {_shown(path)}; use GET.")
    if path in (_MODELS, _MODELS + b"/"):
        return msgspec.json.encode(ModelList(registry.cards(namespace)))
    name = unquote_to_bytes(path[len(_MODELS) + 1 :]).decode("utf-8", "replace")
    return msgspec.json.encode(registry.card(name, namespace))
