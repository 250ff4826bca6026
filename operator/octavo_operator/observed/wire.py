"""What all objects of the API server have in common."""

import msgspec

from octavo_operator.names import GROUP, KIND


class Wire(msgspec.Struct, rename="camel", kw_only=True, frozen=True, gc=False):
    """Base of what is decoded from the API server's JSON; whatever is not named is skipped."""


class Owner(Wire, frozen=True):
    uid: str
    api_version: str = ""
    kind: str = ""
    name: str = ""
    controller: bool = False

    @property
    def is_resource(self) -> bool:
        return self.kind == KIND and self.api_version.startswith(f"{GROUP}/")


class Meta(Wire, frozen=True):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = "0"
    generation: int = 0
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[Owner] = []


class Condition(Wire, frozen=True):
    """Of a Deployment's status or a pod's."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
