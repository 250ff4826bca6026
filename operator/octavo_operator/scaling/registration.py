"""The metrics API's certificate in its Secret, its authority in the APIServices, and the front proxy's."""

import base64
import datetime
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from octavo_operator.api_client import APPLY, ApiClient
from octavo_operator.errors import AlreadyExistsError, NotFoundError
from octavo_operator.names import FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL
from octavo_operator.scaling.certificates import Bundle, is_usable, issue
from octavo_operator.scaling.documents import GROUP, VERSIONS

log = logging.getLogger(__name__)

SECRET = "octavo-metrics-tls"
_FILES = {"authority": "ca.crt", "certificate": "tls.crt", "key": "tls.key"}


class FrontProxy(msgspec.Struct, frozen=True):
    """How the API server tells whose request it forwards: kube-system/extension-apiserver-authentication."""

    authority: str = ""  # PEM
    allowed_names: Sequence[str] = ()  # empty: any that the authority has issued
    user_headers: Sequence[str] = ("X-Remote-User",)
    group_headers: Sequence[str] = ("X-Remote-Group",)
    extra_prefixes: Sequence[str] = ("X-Remote-Extra-",)


class Registration:
    """Keeps certificate and APIServices right. Its methods may raise ApiError."""

    def __init__(self, client: ApiClient, namespace: str, service: str) -> None:
        self._client = client
        self._namespace = namespace
        self._service = service
        self._names = [f"{service}.{namespace}.svc", f"{service}.{namespace}", service]

    async def bundle(self, now: datetime.datetime, may_issue: bool) -> Bundle | None:
        """The certificate of the Secret; a new one where it is absent, foreign or about to expire.

        Without leave to issue one it is the Secret's, or None where there is none that can be used.
        """
        found = await self._read_secret()
        if found is not None and is_usable(found, self._names, now):
            return found
        if not may_issue:
            return None
        fresh = issue(self._names, now)
        if found is None:
            try:
                await self._client.request("POST", self._secrets(), kind="Secret", body=self._secret(fresh))
            except AlreadyExistsError:  # another replica was faster
                return await self.bundle(now, may_issue)
        else:
            await self._apply(f"{self._secrets()}/{SECRET}", "Secret", self._secret(fresh))
        return fresh

    async def register(self, authority: bytes) -> None:
        """Write the authority into those APIServices that lead to this operator."""
        for version in VERSIONS:
            path = f"/apis/apiregistration.k8s.io/v1/apiservices/{version}.{GROUP}"
            try:
                found = msgspec.json.decode(await self._client.request("GET", path, kind="APIService"))
            except NotFoundError:
                log.warning(
                    "APIService %s.%s is not installed: no HPA can read the engines' metrics", version, GROUP
                )
                continue
            await self._trust(path, found, base64.b64encode(authority).decode())

    async def front_proxy(self) -> FrontProxy:
        path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
        data = msgspec.json.decode(await self._client.request("GET", path, kind="ConfigMap")).get("data", {})
        return front_proxy(data)

    async def _trust(self, path: str, found: dict[str, Any], authority: str) -> None:
        spec, name = found["spec"], found["metadata"]["name"]
        service = spec.get("service") or {}
        if (service.get("namespace"), service.get("name")) != (self._namespace, self._service):
            log.warning(
                "APIService %s leads to %s: it is left alone", name, service or "the API server itself"
            )
        elif spec.get("caBundle") != authority:
            kind = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService"}
            await self._apply(
                path, "APIService", {**kind, "metadata": {"name": name}, "spec": {"caBundle": authority}}
            )

    async def _read_secret(self) -> Bundle | None:
        try:
            answer = await self._client.request("GET", f"{self._secrets()}/{SECRET}", kind="Secret")
        except NotFoundError:
            return None
        data = msgspec.json.decode(answer).get("data") or {}
        return Bundle(**{field: base64.b64decode(data.get(file, "")) for field, file in _FILES.items()})

    def _secret(self, bundle: Bundle) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {
                "name": SECRET,
                "namespace": self._namespace,
                "labels": {MANAGED_BY_LABEL: MANAGED_BY},
            },
            "data": {
                file: base64.b64encode(getattr(bundle, field)).decode() for field, file in _FILES.items()
            },
        }

    def _secrets(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/secrets"

    async def _apply(self, path: str, kind: str, manifest: dict[str, Any]) -> None:
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        await self._client.request("PATCH", path, kind=kind, body=manifest, content_type=APPLY, query=query)


def front_proxy(data: dict[str, str]) -> FrontProxy:
    """Read the ConfigMap's data; what it does not say is as the API server's defaults are."""
    known = FrontProxy()

    def listed(name: str, default: Sequence[str]) -> Sequence[str]:
        return msgspec.json.decode(data[name], type=list[str]) if name in data else default

    return FrontProxy(
        authority=data.get("requestheader-client-ca-file", ""),
        allowed_names=listed("requestheader-allowed-names", known.allowed_names),
        user_headers=listed("requestheader-username-headers", known.user_headers),
        group_headers=listed("requestheader-group-headers", known.group_headers),
        extra_prefixes=listed("requestheader-extra-headers-prefix", known.extra_prefixes),
    )
