import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web

from octavo_operator.api import Download
from octavo_operator.download_watch import DownloadWatch
from octavo_operator.downloads import Downloads, Fetching, parse, size_text
from octavo_operator.names import Key
from octavo_operator.observed.pod import Pod, PodStatus


def pod(name: str = "p", *, state: str = "running", left: datetime.datetime | None = None) -> Pod:
    fetch = {"name": "fetch", "state": {state: {}}}
    status = msgspec.convert({"podIP": "127.0.0.1", "initContainerStatuses": [fetch]}, PodStatus)
    return Pod(name=name, namespace="ns", deployment="m", left=left, status=status)


def health(done: int, total: int, file: str = "f", trouble: str = "") -> bytes:
    said = {"downloadedBytes": done, "totalBytes": total, "file": file, "trouble": trouble}
    return msgspec.json.encode({"status": "downloading", "message": "m", "download": said})


@asynccontextmanager
async def answering(*bodies: bytes) -> AsyncIterator[int]:
    """A pod that answers so, one after the other and each in two pieces; the value is its port."""
    left = iter(bodies)

    async def answer(request: web.Request) -> web.StreamResponse:
        response, body = web.StreamResponse(status=503), next(left)
        await response.prepare(request)
        for piece in (body[:9], body[9:]):
            await response.write(piece)
            for _ in range(100):  # turns of the event loop, in which the other side reads
                await asyncio.sleep(0)
        return response

    app = web.Application()
    app.add_routes([web.get("/health", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address: Any = runner.addresses[0]
    yield address[1]
    await runner.cleanup()


def test_what_a_pod_says_is_read() -> None:
    found = parse(health(420, 1000))
    assert found == Fetching(
        Download(downloaded_bytes=420, total_bytes=1000, percent=42, file="f", progress="42% of 1.0 kB")
    )
    assert parse(health(0, 0)) is None
    assert parse(health(0, 0, trouble="The hub is away.")) == Fetching(None, "The hub is away.")


OTHER_ANSWERS = {
    "nothing": b"",
    "no download": b"{}",
    "an engine's": b'{"status": "loading", "message": ""}',
    "no text": health(1, 2).replace(b'"f"', b'"\xff"'),
    "a negative size": health(1, -2),
    "a size beyond 64 bits": health(1, 2).replace(b":2,", b":%d," % 10**400),
    "a long file name": health(1, 2, "f" * 5000),
}


@pytest.mark.parametrize("body", OTHER_ANSWERS.values(), ids=list(OTHER_ANSWERS))
async def test_an_answer_that_cannot_be_read_is_passed_over(body: bytes) -> None:
    changed: list[Key] = []
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        parse(body)
    async with answering(body) as port, ClientSession() as session:
        await DownloadWatch(lambda: [pod()], Downloads(), changed.append, port).round(session)
    assert not changed


def test_more_than_all_is_all() -> None:
    found = parse(health(2**62, 1))
    assert found is not None and found.download is not None and found.download.percent == 100


@pytest.mark.parametrize(
    ("count", "text"),
    [(7, "7 B"), (999, "999 B"), (1000, "1.0 kB"), (94_100_000, "94.1 MB"), (141_000_000_000, "141 GB")],
)
def test_sizes_in_words(count: int, text: str) -> None:
    assert size_text(count) == text


def test_only_news_for_a_person_is_a_change() -> None:
    downloads = Downloads()
    said = [(1, "a"), (9, "a"), (10, "a"), (11, "b"), (11, "b", "Away."), (11, "b", "Away."), (11, "b")]
    told = [parse(health(done, 1000, *rest)) for done, *rest in said]
    assert [downloads.take(pod(), each) for each in told if each] == [
        True, False, True, True, True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("after", [pod(state="terminated"), pod(left=datetime.datetime.now(datetime.UTC))])
def test_a_download_that_has_ended_is_not_shown(after: Pod) -> None:
    downloads = Downloads()
    found = parse(health(1, 2))
    assert found is not None and downloads.take(pod(), found)
    assert downloads.of([pod()]) == {"p": found}
    assert downloads.of([after]) == {}


def test_what_the_status_says_stands_until_a_new_operator_has_asked() -> None:
    told = parse(health(40, 100))
    assert told is not None
    assert Downloads().of([pod(), pod("done", state="terminated")], told.download) == {"p": told}


async def test_the_watch_asks_the_pods_that_download_and_tells_of_news() -> None:
    changed: list[Key] = []
    downloads = Downloads()
    pods = [pod(), pod("done", state="terminated")]
    bodies = (health(1, 100), health(1, 100), b"no JSON", health(2, 100))
    async with answering(*bodies) as port, ClientSession() as session:
        watch = DownloadWatch(lambda: pods, downloads, changed.append, port)
        for _ in bodies:
            await watch.round(session)
    assert changed == [("ns", "m"), ("ns", "m")]
    assert downloads.of(pods)["p"].downloaded_bytes == 2
