"""How a child is written: created by POST, then changed by server-side applies that own what they name."""

import msgspec

from octavo_operator.api_client import APPLY, MERGE, ApiClient
from octavo_operator.errors import AlreadyExistsError, ConflictError, NotFoundError, RefusedError
from octavo_operator.kinds import CHILDREN
from octavo_operator.names import FIELD_MANAGER, Key
from octavo_operator.observed.child import Child, decode_child
from octavo_operator.ownership import handed_over
from octavo_operator.plan import Apply

HAND_OVERS = 5
"""Attempts to hand an object's fields over while others change it."""


class ChildWriter:
    """Sends the writes; every method may raise ApiError."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def look_up(self, kind: str, key: Key) -> Child | None:
        """The object of that name, whoever's it is."""
        try:
            path = CHILDREN[kind].path(*key)
            # Version 0 is answered from the API server's own cache.
            return decode_child(
                kind, await self._client.request("GET", path, kind=kind, query={"resourceVersion": "0"})
            )
        except NotFoundError:
            return None

    async def write(self, write: Apply, key: Key, is_applied: bool) -> Child:
        """Create or apply; `is_applied`: no field of the operator is held by an Update, as far as known."""
        if write.creates:
            return decode_child(write.kind, await self._create(write, key))
        if write.manager == FIELD_MANAGER and not is_applied:  # the number of replicas is taken by force
            try:
                await self._hand_over(write, key)
            except RefusedError:  # a policy judges what is there, which this write may be to put right
                await self._apply(write, key)
                await self._hand_over(write, key)
        return decode_child(write.kind, await self._apply(write, key))

    async def _create(self, write: Apply, key: Key) -> bytes:
        """Strict, as applies are: a field that is not there is refused instead of dropped."""
        query = {"fieldManager": write.manager, "fieldValidation": "Strict"}
        path = CHILDREN[write.kind].path(key[0])
        try:
            return await self._client.request("POST", path, kind=write.kind, body=write.manifest, query=query)
        except RefusedError as error:  # quotas and policies are asked before the name is
            if await self.look_up(write.kind, key) is None:
                raise
            raise AlreadyExistsError(error.status, error.reason, str(error)) from error

    async def _hand_over(self, write: Apply, key: Key) -> None:
        """Let the fields be the operator's by Apply, else what is no longer wanted would stay."""
        path = CHILDREN[write.kind].path(*key)
        for attempt in range(HAND_OVERS):
            found = msgspec.json.decode(await self._client.request("GET", path, kind=write.kind))
            meta = found["metadata"]
            fields = handed_over(meta.get("managedFields", []), write.manager, write.manifest)
            change = {"metadata": {"resourceVersion": meta["resourceVersion"], "managedFields": fields}}
            try:
                await self._client.request("PATCH", path, kind=write.kind, body=change, content_type=MERGE)
                return
            except ConflictError:
                if attempt == HAND_OVERS - 1:
                    raise

    async def _apply(self, write: Apply, key: Key) -> bytes:
        path = CHILDREN[write.kind].path(*key)
        query = {"fieldManager": write.manager, "force": "true"}
        try:
            return await self._client.request(
                "PATCH", path, kind=write.kind, body=write.manifest, content_type=APPLY, query=query
            )
        except RefusedError:
            if not write.repairs:
                raise
            return await self._overwrite(write, path)

    async def _overwrite(self, write: Apply, path: str) -> bytes:
        """Replace whole lists: an item whose key somebody changed, such as a port, outlives an apply."""
        query = {"fieldManager": write.manager}
        return await self._client.request(
            "PATCH", path, kind=write.kind, body=write.manifest, content_type=MERGE, query=query
        )
