"""Waiting for a condition with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")
POLL_SECONDS = 0.1


def wait_for(what: str, probe: Callable[[], Value | None], seconds: float = 60) -> Value:
    """What `probe` returns, once it is neither None, False nor empty.

    Raises:
        AssertionError: it was still not there after `seconds`; the text has what it returned last.
    """
    deadline = time.monotonic() + seconds
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s; last seen: {value!r}")
        time.sleep(POLL_SECONDS)
    return value
