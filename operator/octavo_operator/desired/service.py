"""The Service through which the engine pods are found."""

from octavo_operator.api import LLMDeployment
from octavo_operator.desired.group import served_by
from octavo_operator.desired.meta import Manifest, child
from octavo_operator.names import PORT_NAME


def service(llmd: LLMDeployment) -> Manifest:
    port = {"name": PORT_NAME, "port": 80, "targetPort": PORT_NAME, "protocol": "TCP", "appProtocol": "http"}
    return child(
        llmd,
        "v1",
        "Service",
        spec={"type": "ClusterIP", "selector": served_by(llmd), "ports": [port]},
    )
