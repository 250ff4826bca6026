"""The custom metrics API over HTTP."""

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web

from octavo_operator.errors import ApiError
from octavo_operator.observed.pod import Pod
from octavo_operator.scaling import documents, selectors
from octavo_operator.scaling.access import Caller, Delegation, Question, forwarded
from octavo_operator.scaling.documents import GROUP, VERSIONS, Value
from octavo_operator.scaling.registration import FrontProxy
from octavo_operator.scaling.samples import METRICS, Samples

Pods = Callable[[str], Iterable[Pod]]
"""The engine pods of a namespace."""
Freshen = Callable[[Iterable[Pod]], Awaitable[None]]
"""Sees to it that samples of these pods are young."""


class MetricsApi:
    """Answers the HPA. Nobody is answered without having been authenticated."""

    def __init__(
        self,
        pods: Pods,
        freshen: Freshen,
        samples: Samples,
        delegation: Delegation,
        proxy: Callable[[], FrontProxy],
    ) -> None:
        self._pods = pods
        self._freshen = freshen
        self._samples = samples
        self._delegation = delegation
        self._proxy = proxy

    def application(self) -> web.Application:
        app = web.Application()
        root = f"/apis/{GROUP}"
        version = root + "/{version:" + "|".join(VERSIONS) + "}"
        app.add_routes(
            [
                web.get("/healthz", self.healthz),
                web.get(root, self.group),
                web.get(version, self.discovery),
                web.get(version + "/namespaces/{namespace}/pods/{name}/{metric}", self.values),
            ]
        )
        return app

    async def healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def group(self, request: web.Request) -> web.Response:
        await self._caller(request)
        return _json(documents.group())

    async def discovery(self, request: web.Request) -> web.Response:
        """For everybody who is somebody, as the API server's own discovery."""
        await self._caller(request)
        return _json(documents.discovery(request.match_info["version"]))

    async def values(self, request: web.Request) -> web.Response:
        """Values of one pod, or with the name * of all that the selector matches."""
        asked = request.match_info
        await self._authorize(await self._caller(request), asked)
        if asked["metric"] not in METRICS:
            raise _refusal(
                404, "NotFound", f"there is no metric {asked['metric']!r}: known are {', '.join(METRICS)}"
            )
        try:
            matches = selectors.parse(request.query.get("labelSelector", ""))
        except ValueError as error:
            raise _refusal(400, "BadRequest", str(error)) from error
        meant = [p for p in self._pods(asked["namespace"]) if asked["name"] in ("*", p.name)]
        ready = [pod for pod in meant if pod.ready and matches(pod.labels)]
        await self._freshen(ready)
        return _json(documents.value_list(asked["version"], self._values(ready, asked["metric"])))

    def _values(self, pods: Iterable[Pod], metric: str) -> Iterable[Value]:
        now = time.time()
        for pod in pods:
            if found := self._samples.get((pod.namespace, pod.name), metric, now):
                yield Value(pod.namespace, pod.name, metric, *found)

    async def _caller(self, request: web.Request) -> Caller:
        caller = forwarded(self._proxy(), _common_names(request), request.headers)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if caller is None and scheme.lower() == "bearer" and token:
            caller = await _or_503(self._delegation.by_token(token.strip()))
        if caller is None:
            raise _refusal(401, "Unauthorized", "no valid credentials: ask through the API server")
        return caller

    async def _authorize(self, caller: Caller, asked: Any) -> None:
        question = Question(caller, asked["version"], asked["namespace"], asked["name"], asked["metric"])
        if not await _or_503(self._delegation.may(question)):
            what = f"pods/{asked['metric']} of {GROUP} in namespace {asked['namespace']}"
            raise _refusal(403, "Forbidden", f"{caller.user} may not get {what}")


async def _or_503(answer: Any) -> Any:
    try:
        return await answer
    except ApiError as error:
        raise _refusal(503, "ServiceUnavailable", f"the API server cannot be asked: {error}") from error


def _common_names(request: web.Request) -> list[str]:
    """Of the client's certificate, which TLS has verified if there is one."""
    certificate = request.transport.get_extra_info("peercert") if request.transport else None
    subject = (certificate or {}).get("subject", ())
    return [value for part in subject for field, value in part if field == "commonName"]


def _json(document: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


def _refusal(code: int, reason: str, message: str) -> web.HTTPException:
    body = msgspec.json.encode(documents.failure(code, reason, message))
    kinds: dict[int, type[web.HTTPException]] = {
        400: web.HTTPBadRequest,
        401: web.HTTPUnauthorized,
        403: web.HTTPForbidden,
        404: web.HTTPNotFound,
        503: web.HTTPServiceUnavailable,
    }
    return kinds[code](body=body, content_type="application/json")
