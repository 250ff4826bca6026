import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.work_queue import FIRST_DELAY, LAST_DELAY, WorkQueue, delay_after, work


async def test_a_key_added_twice_is_handed_out_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("a")
    assert await queue.get() == "a"
    assert len(queue) == 0


async def test_keys_come_in_the_order_they_were_added() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in "abca":
        queue.add(key)
    assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]


async def test_a_busy_key_is_handed_out_again_only_when_it_is_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"


async def test_a_failed_key_comes_back_by_itself() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.retry(await queue.get())
    assert len(queue) == 0
    assert await asyncio.wait_for(queue.get(), 5) == "a"


async def test_success_forgets_failures_and_their_timer() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.retry("a")
    await queue.get()
    queue.done("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), FIRST_DELAY * 3)
    queue.close()


async def test_a_waiting_worker_is_woken() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(waiting, 1) == "a"


async def test_an_exception_does_not_end_the_worker() -> None:
    queue: WorkQueue[str] = WorkQueue()
    seen: Counter[str] = Counter()
    finished = asyncio.Event()

    async def do(key: str) -> bool:
        seen[key] += 1
        if seen[key] == 1:
            raise RuntimeError
        finished.set()
        return True

    task = asyncio.create_task(work(queue, do))
    queue.add("a")
    await asyncio.wait_for(finished.wait(), 5)
    task.cancel()
    assert seen["a"] == 2


@given(st.integers(0, 10_000))
def test_delays_double_up_to_a_minute(failures: int) -> None:
    assert FIRST_DELAY <= delay_after(failures) <= LAST_DELAY
    assert delay_after(failures) <= delay_after(failures + 1)


@given(st.lists(st.tuples(st.sampled_from(["add", "get", "done"]), st.sampled_from("abc")), max_size=60))
def test_no_key_is_lost_and_none_is_worked_on_twice_at_once(steps: list[tuple[str, str]]) -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        due: set[str] = set()
        busy: set[str] = set()
        for step, key in steps:
            if step == "add":
                queue.add(key)
                due.add(key)
            elif step == "get" and len(queue):
                got = await queue.get()
                assert got not in busy
                busy.add(got)
                due.discard(got)
            elif step == "done" and key in busy:
                busy.discard(key)
                queue.done(key)
        for key in list(busy):
            queue.done(key)
        assert {await queue.get() for _ in range(len(queue))} == due

    asyncio.run(run())
