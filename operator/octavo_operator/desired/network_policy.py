"""The NetworkPolicy: who may reach the engine pods, and what they may reach."""

from urllib.parse import urlsplit

from octavo_operator.api import LLMDeployment
from octavo_operator.desired.meta import Defaults, Manifest, child, selector
from octavo_operator.desired.pod import merged
from octavo_operator.desired.source import is_downloaded
from octavo_operator.names import PORT_NAME

DNS = tuple({"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP"))
WEB = {80, 443}
SOCKS = 1080
SERVERS = frozenset(
    {
        "ALL_PROXY",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "HF_ENDPOINT",
        "HTTPS_PROXY",
        "HTTP_PROXY",
    }
)
"""Environment variables, in capitals, that send a download elsewhere."""


def network_policy(llmd: LLMDeployment, defaults: Defaults) -> Manifest | None:
    """None unless the operator's settings name who may reach engines."""
    if defaults.engine_clients is None:
        return None
    clients = {"from": defaults.engine_clients, "ports": [{"protocol": "TCP", "port": PORT_NAME}]}
    ports = [{"protocol": "TCP", "port": port} for port in download_ports(llmd, defaults)]
    pods = {"podSelector": {"matchLabels": selector(llmd.metadata.name)}}
    of_group = llmd.spec.group_size > 1  # whose ranks choose their ports
    return child(
        llmd,
        "networking.k8s.io/v1",
        "NetworkPolicy",
        spec={
            "podSelector": {"matchLabels": selector(llmd.metadata.name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [clients, *([{"from": [pods]}] if of_group else [])],
            "egress": [{"ports": [*DNS, *ports]}, *([{"to": [pods]}] if of_group else [])],
        },
    )


def download_ports(llmd: LLMDeployment, defaults: Defaults) -> list[int]:
    """The web's, and those that the source's server, its endpoint, proxies and mirrors are named with.

    What a variable has from a Secret or ConfigMap is not known here.
    """
    model = llmd.spec.model
    if not is_downloaded(model, defaults.image_volumes):
        return []
    scheme, _, rest = model.source.partition("://")
    env = merged(defaults.pod, llmd.spec.pod_template).env
    named = [str(item.get("value") or "") for item in env if item["name"].upper() in SERVERS]
    servers = [model.endpoint or "", f"oci://{rest}" if scheme == "oci" else "", *named]
    return sorted(WEB | {port for server in servers if (port := _port(server))})


def _port(url: str) -> int | None:
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        return parts.port or (SOCKS if parts.scheme.startswith("socks") else None)
    except ValueError:  # told by the engine, which is given the same text
        return None
