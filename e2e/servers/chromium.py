"""A headless Chromium from Debian's packages, unpacked and not installed, led by its DevTools protocol."""

import asyncio
import base64
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from e2e.cluster.container_parts import AS_ROOT, debian_release
from images.cache import key_of, made_once
from images.commands import run

START_SECONDS = 60
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")


def chromium_root(say: Callable[[str], None] = print) -> Path:
    """The folder with Chromium and the libraries that this machine lacks, fetched on first use.

    Raises:
        BuildError: this is not a Debian, or a package cannot be fetched.
    """

    def make(root: Path) -> None:
        say("fetching Chromium from Debian (once)")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "partial").mkdir()
            kept = ("-o", f"Dir::Cache::archives={folder}")
            run(["apt-get", *AS_ROOT, "update", "-q"])
            run(["apt-get", *AS_ROOT, *kept, "install", "-y", "--download-only", "--reinstall",
                 "--no-install-recommends", "chromium", "fonts-dejavu-core"])  # fmt: skip
            for package in sorted(Path(folder).glob("*.deb")):
                run(["dpkg", "-x", package, root])

    return made_once("chromium", key_of([debian_release()]), make)


class Tab:
    """One page of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            told = await self._socket.receive_json(timeout=START_SECONDS)
            if told.get("id") == number:
                assert "error" not in told, told
                found: dict[str, Any] = told["result"]
                return found

    async def value(self, expression: str) -> Any:
        """What JavaScript makes of the expression."""
        told = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def press(self, key: str, **more: Any) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, **more)

    async def screenshot(self) -> bytes:
        """A PNG."""
        told = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(told["data"])


@asynccontextmanager
async def chromium(folder: Path, url: str) -> AsyncIterator[Tab]:
    """A browser that shows `url`; its profile lies in `folder`."""
    root = chromium_root()
    libraries = root / "usr/lib/x86_64-linux-gnu"
    paths = f"{libraries}:{libraries / 'pulseaudio'}"
    environment = {**os.environ, "LD_LIBRARY_PATH": paths, "HOME": str(folder)}
    flags = (*FLAGS, "--remote-debugging-port=0", f"--user-data-dir={folder}/profile", url)
    with (folder / "chromium.log").open("wb") as log:
        program = root / "usr/lib/chromium/chromium"
        process = await asyncio.create_subprocess_exec(
            program, *flags, env=environment, stdout=log, stderr=log
        )
    try:
        port = await _port(folder, process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                (target,) = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _port(folder: Path, process: asyncio.subprocess.Process) -> int:
    told = folder / "profile" / "DevToolsActivePort"
    async with asyncio.timeout(START_SECONDS):
        while not (told.exists() and told.read_text().strip()):
            assert process.returncode is None, (folder / "chromium.log").read_text()
            await asyncio.sleep(0.05)
    return int(told.read_text().splitlines()[0])
