"""When a failing pod is set aside and tried again, and how many retries there may be. Pure: no clock."""

from __future__ import annotations

import msgspec

FAULTS = 5  # responses 500, 502, 504 in a row that set a pod aside


class Limits(msgspec.Struct, frozen=True):
    """Settings of breakers and budgets; times in seconds."""

    ejection_s: float = 2.0  # the first time; each further one without a success between doubles it
    longest_ejection_s: float = 30.0
    retry_ratio: float = 0.2  # retries a request, over time
    retry_burst: int = 100  # retries that may come at once, when a pod dies with all that it had begun


USUAL_LIMITS = Limits()


class Breaker:
    """One pod's.

    closed ── failure, or FAULTS faults in a row ──> open ── its time is over ──> half-open
      ^                                               ^                              │ one trial at a time
      └──────────────────── success ──────────────────┴────────── failure ───────────┘
    """

    __slots__ = ("_faults", "_limits", "_next_trial", "closed", "open_until", "strikes")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._faults = 0
        self.strikes = 0  # openings since the last success
        self.open_until = self._next_trial = 0.0
        self.closed = True  # and no fault seen: nothing to do at a success

    def admits(self, now: float) -> bool:
        return not self.strikes or self.open_until <= now >= self._next_trial

    def fail(self, now: float) -> bool:
        """No answer, or the pod is leaving. True when this opens the breaker: once an incident."""
        if self.open_until > now:
            return False
        self.closed = False
        seconds = self._limits.ejection_s * 2.0 ** min(self.strikes, 30)
        self.strikes += 1
        self._faults = 0
        self.open_until = now + min(seconds, self._limits.longest_ejection_s)
        return True

    def fault(self, now: float) -> bool:
        """The pod answered that it failed. True when this opens the breaker."""
        self.closed = False
        self._faults += 1
        return self._faults >= FAULTS and self.fail(now)

    def tried(self, now: float) -> None:
        """A request goes there. While half-open, it is the trial: the next one has to wait."""
        if self.strikes:
            self._next_trial = now + self._limits.ejection_s

    def succeed(self) -> None:
        self.closed = True
        self.strikes = self._faults = 0
        self.open_until = self._next_trial = 0.0


class RetryBudget:
    """One deployment's retries: a share of its requests, and a burst that fills up again in ten seconds."""

    __slots__ = ("_left", "_limits", "_seen", "_since")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = float(limits.retry_burst)
        self._seen = 0
        self._since = 0.0

    def take(self, now: float, requests: int) -> bool:
        """One retry, if there is one left; `requests` counts all requests there have ever been."""
        limits = self._limits
        earned = limits.retry_ratio * (requests - self._seen) + limits.retry_burst / 10 * (now - self._since)
        self._left = min(float(limits.retry_burst), self._left + earned)
        self._seen, self._since = requests, now
        if self._left < 1:
            return False
        self._left -= 1
        return True
