"""What Ray says of a rank that it has lost, which fills a screen, in a few words. Pure."""

from __future__ import annotations

from octavo_engine.errors import in_one_line

# What Ray's text has in it, and how a sentence about the rank goes on. The first that fits counts.
_SIGNS = (
    ("node has died", "was lost with its node"),
    ("low on memory", "was ended by Ray, because its node ran out of memory"),
    ("worker process has died", "ended without a word: it was killed, or memory ran out"),
    ("is unavailable", "cannot be reached by Ray"),
)


def how_it_was_lost(error: Exception) -> str:
    """The words behind ``rank 1 on HOST``, for one of ``ray.exceptions``."""
    text = str(error)
    known = next((words for sign, words in _SIGNS if sign in text), None)
    if known is not None:
        return known
    cause = getattr(error, "cause", None)
    return (
        f"failed: {in_one_line(cause)}"
        if isinstance(cause, Exception)
        else f"was lost ({in_one_line(error)})"
    )
