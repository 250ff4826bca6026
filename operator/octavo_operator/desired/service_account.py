"""The ServiceAccount of the engine pods: without a token, since the engine never asks the API server."""

from octavo_operator.api import LLMDeployment
from octavo_operator.desired.meta import Manifest, child


def service_account(llmd: LLMDeployment) -> Manifest:
    return child(llmd, "v1", "ServiceAccount", automountServiceAccountToken=False)
