"""What a download may use beside the source: another server, and credentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Access:
    """``endpoint``: the server to ask instead of the public one. ``registry_auth``: a Docker config.json."""

    endpoint: str = ""
    region: str = ""
    hub_token: str = ""
    registry_auth: str = ""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], endpoint: str = "", region: str = "") -> Access:
        """S3's own variables (AWS_*) are left to its library."""
        return cls(
            endpoint=endpoint.rstrip("/"),
            region=region,
            hub_token=environment.get("HF_TOKEN", ""),
            registry_auth=environment.get("OCTAVO_REGISTRY_AUTH", ""),
        )
