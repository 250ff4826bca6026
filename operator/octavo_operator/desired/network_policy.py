"""The NetworkPolicy: who may reach the engine pods, and what they may reach."""

from urllib.parse import urlsplit

from octavo_operator.api import LLMDeployment, Model
from octavo_operator.desired.meta import Defaults, Manifest, child, selector
from octavo_operator.desired.source import is_downloaded
from octavo_operator.names import PORT_NAME

DNS = tuple({"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP"))
WEB = {80, 443}


def network_policy(llmd: LLMDeployment, defaults: Defaults) -> Manifest | None:
    """None unless the operator's settings name who may reach engines."""
    if defaults.engine_clients is None:
        return None
    clients = {"from": defaults.engine_clients, "ports": [{"protocol": "TCP", "port": PORT_NAME}]}
    ports = [{"protocol": "TCP", "port": port} for port in download_ports(llmd.spec.model, defaults)]
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


def download_ports(model: Model, defaults: Defaults) -> list[int]:
    """The web's, and the one that the source's server or its endpoint is named with."""
    if not is_downloaded(model, defaults.image_volumes):
        return []
    scheme, _, rest = model.source.partition("://")
    servers = [model.endpoint or "", f"oci://{rest}" if scheme == "oci" else ""]
    return sorted(WEB | {port for server in servers if (port := _port(server))})


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:  # told by the engine, which is given the same text
        return None
