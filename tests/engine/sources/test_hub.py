"""A model from a hub: what is taken, what is survived, and what is said when it cannot be had."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from e2e.servers.hub import Hub, Repository
from tests.engine.sources.conftest import MODEL, TAKEN, NewFetcher, names

from octavo_engine.errors import DownloadFailed, DownloadRefused, EngineError, ModelNotFound
from octavo_engine.sources.patience import Patience
from octavo_engine.sources.progress import Snapshot
from octavo_engine.sources.source import parse

SOURCE = parse("hf://org/model")
WEIGHTS = "model.safetensors"


def test_a_model_is_taken_without_pickles_and_code(hub: Hub, new_fetcher: NewFetcher) -> None:
    folder = new_fetcher(hub.url).fetch(SOURCE)
    assert names(folder) == TAKEN
    assert {name: (folder / name).read_bytes() for name in TAKEN} == {name: MODEL[name] for name in TAKEN}
    assert folder.resolve().name == hub.repositories["org/model"].commit


def test_an_endpoint_may_end_with_a_slash(hub: Hub, new_fetcher: NewFetcher) -> None:
    assert names(new_fetcher(f"{hub.url}/").fetch(SOURCE)) == TAKEN


def test_a_second_fetch_asks_nobody(hub: Hub, new_fetcher: NewFetcher) -> None:
    first = new_fetcher(hub.url).fetch(SOURCE)
    with_nobody_there = new_fetcher(hub.url)
    hub.repositories.clear()
    hub.asked.clear()
    assert with_nobody_there.fetch(SOURCE) == first
    assert not hub.asked
    assert with_nobody_there.progress.now.state == "done"


def test_a_branch_that_moves_leaves_the_pods_of_a_deployment_alone(hub: Hub, new_fetcher: NewFetcher) -> None:
    before = new_fetcher(hub.url).fetch(SOURCE).resolve()
    hub.repositories["org/model"] = Repository({**MODEL, "config.json": b'{"new": 1}'})
    assert new_fetcher(hub.url).fetch(SOURCE).resolve() == before
    commit = hub.repositories["org/model"].commit
    assert new_fetcher(hub.url).fetch(parse(f"hf://org/model@{commit}")).resolve() != before


def test_two_names_of_one_revision_are_downloaded_once(hub: Hub, new_fetcher: NewFetcher) -> None:
    folder = new_fetcher(hub.url).fetch(SOURCE)
    again = new_fetcher(hub.url).fetch(parse(f"hf://org/model@{hub.repositories['org/model'].commit}"))
    assert again.resolve() == folder.resolve() and again != folder
    assert len(hub.contents(WEIGHTS)) == 1


def test_what_broke_off_is_resumed(hub: Hub, new_fetcher: NewFetcher) -> None:
    hub.faults.drops[WEIGHTS] = 1_000_000
    folder = new_fetcher(hub.url).fetch(SOURCE)
    assert (folder / WEIGHTS).read_bytes() == MODEL[WEIGHTS]
    first, second = hub.contents(WEIGHTS)
    assert first.range == ""
    assert 900_000 < int(second.range.removeprefix("bytes=").rstrip("-")) <= 1_000_000


def test_what_a_killed_pod_left_is_resumed(hub: Hub, new_fetcher: NewFetcher, tmp_path: Path) -> None:
    partial = tmp_path / f"cache/models/hf-org--model/{hub.repositories['org/model'].commit}.partial"
    partial.mkdir(parents=True)
    (partial / "config.json").write_bytes(MODEL["config.json"])
    (partial / f"{WEIGHTS}.part").write_bytes(MODEL[WEIGHTS][:2_000_000])
    fetcher = new_fetcher(hub.url)
    assert names(fetcher.fetch(SOURCE)) == TAKEN
    assert [each.range for each in hub.contents(WEIGHTS)] == ["bytes=2000000-"]
    assert not hub.contents("config.json")
    assert fetcher.progress.now.downloaded_bytes == fetcher.progress.now.total_bytes > 3_000_000


def test_a_server_without_ranges_is_read_again_from_the_start(hub: Hub, new_fetcher: NewFetcher) -> None:
    hub.faults.ranges = False
    hub.faults.drops[WEIGHTS] = 1_000_000
    fetcher = new_fetcher(hub.url)
    assert (fetcher.fetch(SOURCE) / WEIGHTS).read_bytes() == MODEL[WEIGHTS]
    assert fetcher.progress.now.downloaded_bytes == fetcher.progress.now.total_bytes


def test_damaged_leftovers_are_fetched_anew(hub: Hub, new_fetcher: NewFetcher, tmp_path: Path) -> None:
    partial = tmp_path / f"cache/models/hf-org--model/{hub.repositories['org/model'].commit}.partial"
    partial.mkdir(parents=True)
    (partial / f"{WEIGHTS}.part").write_bytes(bytes(2_000_000))
    assert (new_fetcher(hub.url).fetch(SOURCE) / WEIGHTS).read_bytes() == MODEL[WEIGHTS]
    assert [each.range for each in hub.contents(WEIGHTS)] == ["bytes=2000000-", ""]


def test_too_many_requests_are_waited_out_as_long_as_the_server_says(
    hub: Hub, new_fetcher: NewFetcher, pauses: list[float]
) -> None:
    hub.faults.statuses = {"listing": [429], WEIGHTS: [503, 429]}
    new_fetcher(hub.url).fetch(SOURCE)
    assert pauses == [3, 1, 3]


def test_why_a_try_failed_is_shown_until_the_next_goes_on(hub: Hub, new_fetcher: NewFetcher) -> None:
    hub.faults.statuses = {"listing": [503], WEIGHTS: [503]}
    fetcher = new_fetcher(hub.url)
    shown: list[str] = []
    patience = Patience(pause=lambda _: shown.append(fetcher.progress.now.sentence))
    fetcher._replace(patience=patience).fetch(SOURCE)
    assert [sentence.partition(" cannot be fetched: ")[0] for sentence in shown] == [
        "hf://org/model",
        f"{WEIGHTS} of hf://org/model",
    ]
    assert all(sentence.endswith("answered 503. It is tried again.") for sentence in shown)
    assert not fetcher.progress.now.trouble


def test_the_token_is_for_the_hub_and_not_for_its_storage(hub: Hub, new_fetcher: NewFetcher) -> None:
    hub.repositories["org/model"] = Repository(MODEL, private=True)
    new_fetcher(hub.url, hub_token="hf_right").fetch(SOURCE)
    assert {each.path: each.authorized for each in hub.asked} == {
        "config.json": True,
        WEIGHTS: False,
        "tokenizer.json": False,
    }


REFUSED: list[tuple[str, str, dict[str, str], type[EngineError], str]] = [
    ("a repository that is not there", "hf://org/none", {}, ModelNotFound, "does not exist at .* or is"),
    ("a revision that is not there", "hf://org/model@v9", {}, ModelNotFound, "has no revision v9"),
    ("a private one without a token", "hf://org/private", {}, ModelNotFound, "give a token that may read it"),
    ("a gated one without a token", "hf://org/gated", {}, DownloadRefused, "is gated; ask for access"),
    ("a gated one with a token", "hf://org/gated", {"hub_token": "hf_x"}, DownloadRefused, "may not be read"),
    ("a file that is not there", "hf://org/model#x.gguf", {}, ModelNotFound, "holds no file x.gguf"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "access", "kind", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refusals(
    source: str,
    access: dict[str, str],
    kind: type[EngineError],
    words: str,
    hub: Hub,
    new_fetcher: NewFetcher,
) -> None:
    hub.repositories["org/gated"] = Repository(MODEL, gated=True)
    hub.repositories["org/private"] = Repository(MODEL, private=True)
    with pytest.raises(kind, match=words) as refusal:
        new_fetcher(hub.url, **access).fetch(parse(source))
    assert source.partition("#")[0] in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_a_wrong_checksum_is_refused_and_nothing_of_it_stays(hub: Hub, new_fetcher: NewFetcher) -> None:
    hub.faults.damaged.add(WEIGHTS)
    fetcher = new_fetcher(hub.url)
    with pytest.raises(DownloadRefused, match=r"model.safetensors does not have the checksum"):
        fetcher.fetch(SOURCE)
    assert len(hub.contents(WEIGHTS)) == 2
    assert not list(fetcher.cache.root.rglob(f"{WEIGHTS}*"))
    assert fetcher.cache.linked(SOURCE.text) is None


def test_a_server_that_stays_away_is_told_after_some_tries(
    new_fetcher: NewFetcher, pauses: list[float]
) -> None:
    with pytest.raises(DownloadFailed, match="cannot be reached") as failure:
        new_fetcher("http://127.0.0.1:9").fetch(SOURCE)
    assert failure.value.exit_code == 1
    assert pauses == [1, 2, 4]


def test_a_cache_without_room_is_told_before_anything_is_fetched(
    hub: Hub, new_fetcher: NewFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(DownloadRefused, match=r"needs 3.0 MB more and .* has 1.0 MB free"):
        new_fetcher(hub.url).fetch(SOURCE)
    assert not hub.asked


def test_a_cache_that_cannot_be_written_is_told(hub: Hub, new_fetcher: NewFetcher, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadRefused, match=r"cannot be written at .*file/cache: .* writable for user"):
        new_fetcher(hub.url, tmp_path / "file" / "cache").fetch(SOURCE)


def test_of_several_at_once_one_downloads_and_the_others_see_how_far_it_is(
    hub: Hub, new_fetcher: NewFetcher
) -> None:
    hub.faults.bytes_per_second = 1_500_000
    fetchers = [new_fetcher(hub.url) for _ in range(3)]
    seen: set[str] = set()
    threads = [threading.Thread(target=fetcher.fetch, args=(SOURCE,)) for fetcher in fetchers]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
        moments = [fetcher.progress.now for fetcher in fetchers]
        seen |= {now.state for now in moments if 0 < now.percent < 100}
        threads[0].join(0.02)
    assert len(hub.contents(WEIGHTS)) == 1
    assert seen == {"downloading", "waiting"}
    assert {fetcher.progress.now.state for fetcher in fetchers} == {"done"}


def test_who_waits_sees_why_the_holder_cannot_begin(hub: Hub, new_fetcher: NewFetcher) -> None:
    hub.faults.statuses = {"listing": [503]}
    holder, waiting = new_fetcher(hub.url), new_fetcher(hub.url)
    others = threading.Thread(target=waiting.fetch, args=(SOURCE,))
    seen: list[str] = []
    deadline = time.monotonic() + 60

    def pause(_: float) -> None:
        others.start()
        while not waiting.progress.now.trouble and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(waiting.progress.now.sentence)

    holder._replace(patience=Patience(pause=pause)).fetch(SOURCE)
    others.join()
    assert [sentence.endswith("answered 503. It is tried again.") for sentence in seen] == [True]
    assert len(hub.contents(WEIGHTS)) == 1
    assert waiting.progress.now.state == "done"


def test_progress_in_words() -> None:
    now = Snapshot("downloading", 6_762_000_000, 16_100_000_000, WEIGHTS)
    assert now.sentence == "The model is being downloaded: 42% of 16.1 GB, model.safetensors."
    assert Snapshot().sentence == "The model's files are being looked up."
