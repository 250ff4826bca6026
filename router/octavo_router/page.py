"""The page for people on the admin port: read-only, one HTML file that asks for one JSON document.

Pods are asked for their metrics once a second, and only while somebody looks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import aiohttp

from octavo_router.overview import Overview, news

HTML = files("octavo_router").joinpath("page.html").read_text(encoding="utf-8")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_EVERY_S = 1.0
_WATCHED_S = 5.0  # after the last look
_EVENTS = 50
_TIMEOUT_S = 0.9
_AT_ONCE = 32
_SEEN = {
    "octavo_num_requests_running": "running",
    "octavo_num_requests_waiting": "waiting",
    "octavo_kv_cache_usage_ratio": "kv_usage",
    "octavo_generation_tokens_total": "tokens",
}


class Page:
    """Keeps the last figures of pods and the last events."""

    def __init__(self, models: Callable[[], Overview]) -> None:
        self._models = models
        self._former: Overview | None = None
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS)
        self._pods: dict[str, dict[str, Any]] = {}
        self._looked_at = -_WATCHED_S

    def document(self) -> dict[str, Any]:
        """What the page shows."""
        self._looked_at = time.monotonic()
        models = {key: {**m, "pods": self._with_figures(m["pods"])} for key, m in self._models().items()}
        return {"time": time.time(), "models": models, "events": list(self._events)}

    def _with_figures(self, pods: dict[str, Any]) -> dict[str, Any]:
        return {address: {**pod, **self._pods.get(address, {})} for address, pod in pods.items()}

    async def run(self) -> None:
        """Watches for changes, and pods while somebody looks, until it is cancelled."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=_AT_ONCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while True:
                models = self._models()
                self._note(models)
                if time.monotonic() - self._looked_at < _WATCHED_S:
                    await self._ask_all(session, {a for m in models.values() for a in m["pods"]})
                await asyncio.sleep(_EVERY_S)

    def _note(self, models: Overview) -> None:
        for text in news(self._former or {}, models):
            self._events.appendleft({"time": time.time(), "text": text})
        self._former = models

    async def _ask_all(self, session: aiohttp.ClientSession, addresses: set[str]) -> None:
        told = await asyncio.gather(*[self._ask(session, address) for address in addresses])
        self._pods = dict(zip(addresses, told, strict=True))

    async def _ask(self, session: aiohttp.ClientSession, address: str) -> dict[str, Any]:
        try:
            async with session.get(f"http://{address}/metrics") as response:
                found = read_metrics(await response.text())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return {}
        now, former = time.monotonic(), self._pods.get(address, {})
        if "tokens" in found and "tokens" in former:
            grown = found["tokens"] - former["tokens"]
            found["tokens_per_second"] = max(0.0, grown) / (now - former["at"])
        return {**found, "at": now}


def read_metrics(text: str) -> dict[str, float]:
    """The few figures of an engine's metrics that the page shows: of caches the fullest, all else summed.

    Raises:
        ValueError: a figure is no number, or not a finite one, which JSON has no word for.
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        name = _SEEN.get(line.partition("{")[0])
        if name is not None:
            value, known = float(line.rpartition(" ")[2]), found.get(name, 0.0)
            found[name] = max(known, value) if name == "kv_usage" else known + value
    if not all(map(math.isfinite, found.values())):
        raise ValueError("a figure is not finite")
    return found
