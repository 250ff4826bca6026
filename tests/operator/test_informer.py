"""The informer's cache by what watches bring, and by how they end; the client is a script of watches."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from octavo_operator import informer
from octavo_operator.api import LLMDeployment, decode
from octavo_operator.api_client import ApiClient
from octavo_operator.errors import ApiError, ExpiredError, NotFoundError, RefusedError, UnreachableError
from octavo_operator.informer import INITIAL_END, Informer

PATH = "/apis/octavo.dev/v1alpha1/llmdeployments"
Line = bytes | LLMDeployment
"""What a watch tells, or the answer to an own write that comes just then."""
Watch = list[Line] | ApiError
Page = list[Line] | ApiError
Heard = list[tuple[int | None, int | None]]


class ScriptedClient:
    """Answers watch after watch; when there is no more, it says so, and the last one stays open.

    Lists are answered with `pages`, each an error or a body, before which answers to own writes may come.
    """

    def __init__(self, *watches: Watch, pages: Iterable[Page] = ()) -> None:
        self.watches = list(watches)
        self.pages = list(pages)
        self.queries: list[Mapping[str, str]] = []
        self.over = asyncio.Event()
        self.answered: Callable[[LLMDeployment], None] = lambda own: None

    @asynccontextmanager
    async def lines(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.queries.append(query)
        watch = self.watches.pop(0)
        if isinstance(watch, ApiError):
            raise watch
        yield self._told(watch)

    async def request(self, verb: str, path: str, *, kind: str, query: Mapping[str, str]) -> bytes:
        assert (verb, path, kind) == ("GET", PATH, "LLMDeployment")
        self.queries.append(dict(query))
        page = self.pages.pop(0)
        if isinstance(page, ApiError):
            raise page
        *answers, content = page
        for answer in answers:
            assert isinstance(answer, LLMDeployment)
            self.answered(answer)
        assert isinstance(content, bytes)
        return content

    async def _told(self, watch: list[Line]) -> AsyncIterator[bytes]:
        for line in watch:
            if isinstance(line, bytes):
                yield line
            else:
                self.answered(line)
        if not self.watches:
            self.over.set()
            await asyncio.Event().wait()


def event_object(name: str, version: int, **spec: Any) -> bytes:
    meta = {"name": name, "namespace": "ml", "uid": name, "resourceVersion": str(version)}
    return json.dumps({"metadata": meta, "spec": {"model": {"source": "hf://a/b"}, **spec}}).encode()


def event(kind: str, name: str, version: int, **spec: Any) -> bytes:
    return b'{"type": "%b", "object": %b}' % (kind.encode(), event_object(name, version, **spec))


def bookmark(version: int, *, initial_end: bool = False) -> bytes:
    meta = {"resourceVersion": str(version), "annotations": {INITIAL_END: "true"} if initial_end else {}}
    return json.dumps({"type": "BOOKMARK", "object": {"metadata": meta}}).encode()


EXPIRED = json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old"}}).encode()


FAILED = json.dumps({"type": "ERROR", "object": {"code": 500, "message": "unable to transform key"}}).encode()


def own(name: str, version: int) -> LLMDeployment:
    return decode(event_object(name, version))


def follow(
    *watches: Watch, pages: Iterable[Page] = ()
) -> tuple[dict[str, int], Heard, list[Mapping[str, str]]]:
    """What the cache holds after these watches (name -> version), the changes heard, and the queries."""
    heard: Heard = []

    async def play() -> tuple[dict[str, int], Heard, list[Mapping[str, str]]]:
        client = ScriptedClient(*watches, pages=pages)

        def changed(former: LLMDeployment | None, present: LLMDeployment | None) -> None:
            heard.append((former and former.version, present and present.version))

        found = Informer(cast(ApiClient, client), PATH, decode, changed, selector={})
        client.answered = lambda own: found.learn(own.key, own)
        task = asyncio.create_task(found.run())
        async with asyncio.timeout(20):
            await client.over.wait()
        task.cancel()
        return {each.metadata.name: each.version for each in found}, heard, client.queries

    return asyncio.run(play())


def test_what_has_vanished_while_nobody_watched_is_forgotten_at_the_end_of_the_initial_events() -> None:
    before = [event("ADDED", "a", 1), event("ADDED", "b", 2), bookmark(2, initial_end=True), EXPIRED]
    found, heard, queries = follow(before, [event("ADDED", "b", 2), bookmark(9, initial_end=True)])
    assert found == {"b": 2}
    assert heard == [(None, 1), (None, 2), (2, 2), (1, None)]
    assert [query.get("sendInitialEvents") for query in queries] == ["true", "true"]


def test_a_watch_that_ends_goes_on_from_its_last_bookmark() -> None:
    _, _, queries = follow([event("ADDED", "a", 1), bookmark(5, initial_end=True), bookmark(8)], [])
    assert queries[1]["resourceVersion"] == "8"
    assert "sendInitialEvents" not in queries[1]


def test_older_news_than_what_was_learnt_of_an_own_write_changes_nothing() -> None:
    told = [event("ADDED", "a", 1), own("a", 7), bookmark(5, initial_end=True), event("MODIFIED", "a", 6)]
    found, heard, _ = follow(told)
    assert found == {"a": 7}
    assert heard == [(None, 1), (7, 7)]


FIRST: Watch = [event("ADDED", "a", 1), bookmark(5, initial_end=True), EXPIRED]


def test_a_late_answer_does_not_replace_what_initial_events_told() -> None:
    found, _, _ = follow(FIRST, [event("ADDED", "a", 20), own("a", 15), bookmark(25, initial_end=True)])
    assert found == {"a": 20}


def test_a_late_answer_does_not_bring_back_what_was_deleted_among_the_initial_events() -> None:
    told = [event("ADDED", "a", 10), event("DELETED", "a", 20), own("a", 15), bookmark(25, initial_end=True)]
    found, heard, _ = follow(FIRST, told)
    assert found == {}
    assert heard[-1] == (10, None)


def test_a_late_answer_of_before_a_relist_does_not_bring_back_what_was_deleted() -> None:
    gone = [event("ADDED", "a", 1), bookmark(5, initial_end=True), event("DELETED", "a", 8), EXPIRED]
    found, _, _ = follow(gone, [own("a", 7)])
    assert found == {}


def test_an_answer_is_taken_in_although_later_objects_have_been_streamed() -> None:
    found, _, _ = follow(FIRST, [event("ADDED", "a", 20), own("b", 15)])
    assert found == {"a": 20, "b": 15}


def test_what_was_made_after_the_initial_events_has_not_vanished() -> None:
    told = [event("ADDED", "a", 10), own("b", 30), bookmark(25, initial_end=True), event("ADDED", "b", 30)]
    found, heard, _ = follow(FIRST, told)
    assert found == {"a": 10, "b": 30}
    assert heard == [(None, 1), (1, 10), (30, 30)]


def test_an_object_that_does_not_fit_is_told_and_leaves_the_former_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unfit = event("MODIFIED", "a", 3, autoscaling=5)
    first = [event("ADDED", "a", 1), bookmark(2, initial_end=True), unfit, event("ADDED", "b", 4), EXPIRED]
    again = [event("ADDED", "a", 3, autoscaling=5), event("ADDED", "b", 4), bookmark(9, initial_end=True)]
    with caplog.at_level(logging.ERROR):
        found, _, queries = follow(first, again)
    assert found == {"a": 1, "b": 4}
    assert len(queries) == 2
    assert "ml/a does not fit its schema, is its CRD current?" in caplog.text


def test_a_collection_that_is_not_there_yet_is_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    absent = NotFoundError(404, "NotFound", "the server could not find the requested resource")
    with caplog.at_level(logging.WARNING):
        found, _, _ = follow(absent, [event("ADDED", "a", 1), bookmark(2, initial_end=True)])
    assert found == {"a": 1}
    assert "is its CRD installed?" in caplog.text


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The failures in a row before each pause, which takes no time."""
    found: list[int] = []

    def delay_after(failures: int) -> float:
        found.append(failures)
        return 0

    monkeypatch.setattr(informer, "delay_after", delay_after)
    return found


def test_an_error_of_the_watch_that_is_no_expiry_goes_on_from_the_last_version(
    pauses: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    start: Watch = [event("ADDED", "a", 1), bookmark(5, initial_end=True), FAILED]
    with caplog.at_level(logging.WARNING):
        _, _, queries = follow(start, [FAILED], [FAILED], [])
    assert [query.get("resourceVersion") for query in queries] == [None, "5", "5", "5"]
    assert pauses == [0, 1, 2]
    assert "unable to transform key" in caplog.text


def test_watches_that_have_to_start_over_again_and_again_pause_ever_longer(pauses: list[int]) -> None:
    initial: Watch = [event("ADDED", "a", 1), bookmark(5, initial_end=True)]
    follow([EXPIRED], [EXPIRED], [*initial, EXPIRED], [*initial, bookmark(8), EXPIRED], [])
    assert pauses == [0, 1, 2, 0]


def test_the_break_of_a_watch_that_told_something_is_the_first_in_a_row(pauses: list[int]) -> None:
    broken = UnreachableError(0, "NoAnswer", "no answer")
    follow(broken, broken, broken, [event("ADDED", "a", 1), FAILED], [])
    assert pauses == [0, 1, 2, 0]


NO_INITIAL_EVENTS = RefusedError(
    422, "Invalid", "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
)


def page(version: int, *items: bytes, further: str = "") -> bytes:
    meta = json.dumps({"resourceVersion": str(version), "continue": further}).encode()
    return b'{"metadata": %b, "items": [%b]}' % (meta, b",".join(items))


def test_without_initial_events_what_there_is_is_listed_in_pages_and_watched_from_there() -> None:
    pages: list[Page] = [
        [page(9, event_object("a", 3), further="more")],
        [own("c", 8), own("d", 12), page(9, event_object("b", 4))],
    ]
    found, heard, queries = follow(NO_INITIAL_EVENTS, [event("MODIFIED", "a", 10)], pages=pages)
    assert found == {"a": 10, "b": 4, "d": 12}
    assert heard == [(None, 3), (None, 4), (8, None), (3, 10)]
    _, first, second, watch = queries
    assert (first, second) == ({"limit": "500"}, {"limit": "500", "continue": "more"})
    assert watch["resourceVersion"] == "9"
    assert "sendInitialEvents" not in watch


def test_who_was_refused_initial_events_once_lists_whenever_a_watch_has_expired() -> None:
    pages: list[Page] = [[page(9, event_object("a", 3))], [page(20)]]
    found, heard, queries = follow(NO_INITIAL_EVENTS, [EXPIRED], [], pages=pages)
    assert found == {}
    assert heard == [(None, 3), (3, None)]
    assert ["limit" in query for query in queries] == [False, True, False, True, False]


def test_a_list_whose_pages_have_expired_starts_over(pauses: list[int]) -> None:
    expired = ExpiredError(410, "Expired", "the provided continue parameter is too old")
    first = page(9, event_object("a", 3), event_object("b", 4), further="more")
    found, _, queries = follow(
        NO_INITIAL_EVENTS, [], pages=[[first], expired, [page(20, event_object("b", 4))]]
    )
    assert found == {"b": 4}
    assert queries[3] == {"limit": "500"}
    assert pauses == [0]


def test_another_refusal_is_no_reason_to_list(pauses: list[int], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        follow(RefusedError(403, "Forbidden", "llmdeployments is forbidden"), [])
    assert "llmdeployments is forbidden" in caplog.text
