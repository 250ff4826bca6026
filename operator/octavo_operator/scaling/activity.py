"""Since when a resource's pods have had nothing to do. Pure: the clock is passed in.

It is kept in memory alone: an operator that starts counts anew, so a restart delays going to zero and never
hastens it.
"""

from collections.abc import Iterable, Mapping

from octavo_operator.names import PROMPT_TOKENS, REQUESTS_IN_FLIGHT, Key

Values = Mapping[str, float]
"""What a pod told at the last scrape."""


class Activity:
    """When each resource was last seen at work, in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._since: dict[Key, float] = {}
        self._former: dict[Key, tuple[str, float]] = {}
        self._words: dict[Key, str] = {}

    def look(self, key: Key, pods: Iterable[Values | None], wake: str, now: float) -> None:
        """Take in what all pods of a resource tell; None for one that is starting or does not answer.

        Silence counts as work, and so do prompts that came and went between two looks, and a wake-up call.
        """
        told = list(pods)
        known = [values for values in told if values is not None]
        present = (wake, sum(values.get(PROMPT_TOKENS, 0.0) for values in known))
        idle = len(known) == len(told) and not any(values.get(REQUESTS_IN_FLIGHT, 0.0) for values in known)
        if not idle or present != self._former.get(key):
            self._since[key] = now
        self._former[key] = present

    def wake(self, key: Key, word: str, now: float) -> None:
        """Begin anew at a new word: a request waits, and the pod that is started for it has not been seen."""
        if word and word != self._words.get(key):
            self._words[key] = word
            self._since[key] = now

    def idle_seconds(self, key: Key, now: float) -> float:
        """0 for a resource that has not been looked at."""
        return now - self._since.get(key, now)

    def keep(self, keys: Iterable[Key]) -> None:
        """Forget all resources but these."""
        kept = set(keys)
        self._since = {key: at for key, at in self._since.items() if key in kept}
        self._former = {key: former for key, former in self._former.items() if key in kept}
        self._words = {key: word for key, word in self._words.items() if key in kept}
