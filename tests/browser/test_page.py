"""The router's page in a real browser, over a real router and a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.servers.chromium import Tab, chromium, chromium_root
from tests.engine.server.running_server import RunningServer
from tests.engine.server.tiny_model import make_tiny_model
from tests.router.test_service import ports, started

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
ROWS = "[...document.querySelectorAll('#rows tr')].map(r => [...r.cells].map(c => c.textContent.trim()))"
DEADLINE_S = 60


async def until(tab: Tab, expression: str) -> Any:
    """The first true value of the expression."""
    async with asyncio.timeout(DEADLINE_S):
        while not (found := await tab.value(expression)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    """The page of a router that has one model on one engine, to which requests are sent."""
    chromium_root()
    engine = RunningServer(make_tiny_model(tmp_path), "default/tiny").until_ready()
    (tmp_path / "models.yaml").write_text(
        f"models: {{default/tiny: {{urls: ['{engine.url}']}}, '<b>odd</b>': {{urls: ['http://127.0.0.1:9']}}}}"
    )
    router = await started("--static", str(tmp_path / "models.yaml"), OCTAVO_PAGE="true")
    try:
        admin, port = await ports(router)
        async with chromium(tmp_path, f"http://127.0.0.1:{admin}/") as found, httpx.AsyncClient() as http:
            sending = asyncio.create_task(send(http, f"http://127.0.0.1:{port}/v1/completions"))
            yield found
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    finally:
        router.terminate()
        await router.wait()
        engine.close()


async def send(http: httpx.AsyncClient, url: str) -> None:
    """One request after another."""
    while True:
        await http.post(url, json={"model": "default/tiny", "prompt": "x", "max_tokens": 64}, timeout=30)


async def test_the_page_shows_models_and_pods_live_and_works_with_keys(tab: Tab, tmp_path: Path) -> None:
    await until(tab, "document.querySelectorAll('#rows tr').length === 4")
    await until(tab, "parseFloat(document.querySelector('#rows').rows[3].cells[5].textContent) > 0")
    rows = await tab.value(ROWS)
    assert [row[0] for row in rows if "127" not in row[0]] == ["<b>odd</b>", "default/tiny"]
    assert rows[3][1] == "ready" and rows[3][4].endswith("%")
    assert await tab.value("document.querySelector('#rows b') === null")  # names are text
    assert "default/tiny is here: ready" in await tab.value("document.querySelector('#events').textContent")

    await tab.press("Tab", windowsVirtualKeyCode=9)
    assert await tab.value("document.activeElement.className") == "skip"
    await tab.press("Tab", windowsVirtualKeyCode=9)
    assert await tab.value("document.activeElement.id") == "pause"
    await tab.press("p", text="p", windowsVirtualKeyCode=80)
    assert await tab.value("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
    assert await tab.value("document.querySelector('#news').textContent") == "paused"
    await tab.press("p", text="p", windowsVirtualKeyCode=80)
    await until(tab, "document.querySelector('#news').textContent === '2 models'")

    backs = []
    for scheme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        await tab.call("Emulation.setEmulatedMedia", features=media)
        backs.append(await tab.value("getComputedStyle(document.body).backgroundColor"))
        (tmp_path / f"{scheme}.png").write_bytes(await tab.screenshot())
    assert backs == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]
