"""The HorizontalPodAutoscaler's algorithm for Pods metrics with an average value as target.

After the documentation of autoscaling/v2 (Kubernetes 1.34): every 15 s the wanted number follows each metric,
the largest counts, 10% tolerance, missing pods damp, policies bound the speed, and stabilization takes the
largest recommendation of the last minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SYNC_SECONDS = 15
TOLERANCE = 0.1


@dataclass(frozen=True)
class Policy:
    """At most so many pods, or so many percent of them, within so many seconds."""

    seconds: int
    pods: int = 0
    percent: int = 0


@dataclass(frozen=True)
class Behavior:
    """How fast; of several policies the one that allows most counts."""

    up: tuple[Policy, ...] = (Policy(15, percent=100), Policy(15, pods=4))
    down: tuple[Policy, ...] = (Policy(15, percent=100),)
    up_window: int = 0  # seconds of stabilization
    down_window: int = 300


@dataclass
class Autoscaler:
    """``targets``: average value of each metric; ``step`` is called every 15 s."""

    targets: Mapping[str, float]
    least: int
    most: int
    behavior: Behavior = field(default_factory=Behavior)
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def step(self, now: float, replicas: int, told: Mapping[str, Sequence[float]]) -> int:
        """The new number. ``told``: for each metric the values of those pods that have one."""
        wanted = max(recommend(replicas, told[name], target) for name, target in self.targets.items())
        bounded = min(self.most, max(self.least, self._stabilized(now, wanted, replicas)))
        found = self._paced(now, bounded, replicas)
        if found != replicas:
            self._changes.append((now, found - replicas))
        return found

    def _stabilized(self, now: float, wanted: int, replicas: int) -> int:
        behavior = self.behavior
        self._recommended.append((now, wanted))
        down, up = max(behavior.down_window, 1), max(behavior.up_window, 1)
        self._recommended = [(at, n) for at, n in self._recommended if at > now - max(down, up)]
        highest = max(n for at, n in self._recommended if at > now - down)
        lowest = min(n for at, n in self._recommended if at > now - up)
        return max(lowest, min(replicas, highest))

    def _paced(self, now: float, wanted: int, replicas: int) -> int:
        if wanted > replicas:
            return min(wanted, max(self._allowed(now, replicas, policy, 1) for policy in self.behavior.up))
        if wanted < replicas:
            return max(wanted, min(self._allowed(now, replicas, policy, -1) for policy in self.behavior.down))
        return replicas

    def _allowed(self, now: float, replicas: int, policy: Policy, sign: int) -> int:
        """The number that a policy allows, which counts from what there was at its period's begin."""
        since = sum(by for at, by in self._changes if at > now - policy.seconds and by * sign > 0)
        start = replicas - since
        if policy.pods:
            return start + sign * policy.pods
        share = start * (100 + sign * policy.percent) / 100
        return math.ceil(share) if sign > 0 else math.floor(share)


def recommend(replicas: int, values: Sequence[float], target: float) -> int:
    """What one metric asks for. Pods without a value count as 0 where more are wanted, else as on target."""
    if not values:
        return replicas
    ratio = sum(values) / len(values) / target
    if abs(ratio - 1) <= TOLERANCE:
        return replicas
    missing = replicas - len(values)
    if missing <= 0:
        return math.ceil(ratio * len(values))
    damped = (sum(values) + (missing * target if ratio < 1 else 0)) / replicas / target
    if abs(damped - 1) <= TOLERANCE or (damped < 1) != (ratio < 1):
        return replicas
    found = math.ceil(damped * replicas)
    return replicas if (ratio < 1 < found / replicas) or (ratio > 1 > found / replicas) else found
