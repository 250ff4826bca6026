"""Who asks the metrics API, and may they: both delegated to the API server."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

import msgspec

from octavo_operator.api_client import ApiClient
from octavo_operator.scaling.documents import GROUP
from octavo_operator.scaling.registration import FrontProxy

CACHE_SECONDS = 10.0
CACHED = 1024

K = TypeVar("K")
V = TypeVar("V")


class Caller(msgspec.Struct, frozen=True):
    """Who asks."""

    user: str
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Question(msgspec.Struct, frozen=True):
    """What a caller asks for."""

    caller: Caller
    version: str
    namespace: str
    name: str
    metric: str


class Delegation:
    """Asks the API server by TokenReview and SubjectAccessReview; answers count for ten seconds."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._callers: Cache[bytes, Caller | None] = Cache()
        self._allowed: Cache[Question, bool] = Cache()

    async def by_token(self, token: str) -> Caller | None:
        """Whose bearer token this is; None when nobody's. May raise ApiError."""
        known = hashlib.sha256(token.encode()).digest()
        if (found := self._callers.get(known)) is not None:
            return found[0]
        status = await self._review("authentication.k8s.io", "TokenReview", {"token": token})
        caller = _caller(status.get("user", {})) if status.get("authenticated") else None
        self._callers.put(known, caller)
        return caller

    async def may(self, question: Question) -> bool:
        """May the caller read that metric? May raise ApiError."""
        if (found := self._allowed.get(question)) is not None:
            return found[0]
        status = await self._review("authorization.k8s.io", "SubjectAccessReview", _access_spec(question))
        allowed = bool(status.get("allowed"))
        self._allowed.put(question, allowed)
        return allowed

    async def _review(self, group: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        answer = await self._client.request("POST", f"/apis/{group}/v1/{kind.lower()}s", kind=kind, body=body)
        status: dict[str, Any] = msgspec.json.decode(answer).get("status", {})
        return status


def forwarded(proxy: FrontProxy, common_names: Sequence[str], headers: Mapping[str, str]) -> Caller | None:
    """The caller that the front proxy names; None unless its verified certificate is one of those allowed.

    `headers` has the getall of a multidict, and names without regard to case.
    """
    if not common_names or (proxy.allowed_names and not set(common_names) & set(proxy.allowed_names)):
        return None
    user = next((headers[h] for h in proxy.user_headers if h in headers), "")
    if not user:
        return None
    groups = [value for h in proxy.group_headers for value in _all(headers, h)]
    extra = {
        unquote(name[len(prefix) :].lower()): tuple(_all(headers, name))
        for prefix in proxy.extra_prefixes
        for name in headers
        if name.lower().startswith(prefix.lower())
    }
    return Caller(user, tuple(groups), tuple(sorted(extra.items())))


class Cache(Generic[K, V]):
    """Values that count for ten seconds."""

    def __init__(self) -> None:
        self._found: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> tuple[V] | None:
        """The value in a tuple, since it may itself be None."""
        until, value = self._found.get(key, (0.0, None))
        return (value,) if time.monotonic() < until else None  # type: ignore[return-value]

    def put(self, key: K, value: V) -> None:
        self._found[key] = (time.monotonic() + CACHE_SECONDS, value)
        self._found.move_to_end(key)
        if len(self._found) > CACHED:
            self._found.popitem(last=False)


def _all(headers: Mapping[str, str], name: str) -> list[str]:
    found = getattr(headers, "getall", None)
    return list(found(name, [])) if found else [headers[name]] if name in headers else []


def _caller(user: dict[str, Any]) -> Caller:
    extra = sorted((name, tuple(values)) for name, values in (user.get("extra") or {}).items())
    return Caller(user.get("username", ""), tuple(user.get("groups") or ()), tuple(extra))


def _access_spec(question: Question) -> dict[str, Any]:
    caller = question.caller
    return {
        "user": caller.user,
        "groups": caller.groups,
        "extra": dict(caller.extra),
        "resourceAttributes": {
            "verb": "get",
            "group": GROUP,
            "version": question.version,
            "namespace": question.namespace,
            "resource": "pods",
            "subresource": question.metric,
            "name": question.name,
        },
    }
