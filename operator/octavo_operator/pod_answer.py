"""The answer of a pod over HTTP. Its image may be a user's own: no length and no pieces can be relied on."""

import aiohttp

from octavo_operator.observed.pod import Pod


def url(pod: Pod, port: int, path: str) -> str:
    """Where a pod that has an address is asked."""
    host = f"[{pod.status.pod_ip}]" if ":" in pod.status.pod_ip else pod.status.pod_ip
    return f"http://{host}:{port}{path}"


async def read(answer: aiohttp.ClientResponse, longest: int) -> bytes:
    """The whole body.

    Raises:
        aiohttp.ClientPayloadError: it is longer than that many bytes.
    """
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > longest:
            raise aiohttp.ClientPayloadError(f"the answer has more than {longest} bytes")
    return bytes(body)
