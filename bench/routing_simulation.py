"""Pods in simulated time behind the router's own policies: hit rate, TTFT and balance over conversations.

A pod prefills one prompt after another at a fixed speed, skips what its cache still holds of the beginning,
and decodes all its sequences side by side. Its cache is its own: segments of conversations, the least
recently used go first. The policies see what they see in the router: bodies, and loads that are up to half a
second old.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import statistics
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from octavo_router.endpoints import Address, Endpoint
from octavo_router.policies import Policies, PolicyName
from octavo_router.prompt import Features, read_body

PODS = 64
PREFILL_TOK_S = 6_000
TPOT_S = 0.02
CACHE_TOKENS = 100_000
LOAD_AGE_S = 0.5
SECONDS, WARM_UP_S = 90.0, 30.0
Segment = tuple[str, int]  # a name, the same for the same text; and its tokens


@dataclass
class Turn:
    """One request of a conversation."""

    session: str
    roles: list[str]
    prompt: list[Segment]
    answer: Segment
    then: Callable[[], Turn | None]  # the conversation's next turn
    think_s: float

    def body(self) -> bytes:
        pairs = zip(self.roles, self.prompt, strict=True)
        messages = [{"role": role, "content": text_of(segment)} for role, segment in pairs]
        return json.dumps({"model": "m", "messages": messages, "user": self.session}).encode()


def text_of(segment: Segment) -> str:
    """Four characters a token."""
    return random.Random(segment[0]).randbytes(2 * segment[1]).hex()


class Pod:
    """One engine."""

    def __init__(self) -> None:
        self.queue: list[Job] = []
        self.busy = False
        self.load = self.served = 0
        self._cache: OrderedDict[str, int] = OrderedDict()
        self._held = 0

    def cached(self, prompt: list[Segment]) -> int:
        """Tokens of the prompt's beginning that need no prefill."""
        found = 0
        for name in chain_of(prompt):
            if name not in self._cache:
                break
            found += self._cache[name]
        return found

    def keep(self, prompt: list[Segment]) -> None:
        for name, (_, tokens) in reversed([*zip(chain_of(prompt), prompt, strict=True)]):
            if name not in self._cache:
                self._held += tokens
            self._cache[name] = tokens
            self._cache.move_to_end(name)
        while self._held > CACHE_TOKENS:
            self._held -= self._cache.popitem(last=False)[1]


def chain_of(prompt: list[Segment]) -> list[str]:
    return list(itertools.accumulate((name for name, _ in prompt), lambda before, name: f"{before}|{name}"))


class Router:
    """One router process: endpoints with its own counts, policies with tables of their own."""

    def __init__(self, policy: PolicyName) -> None:
        self.policies = Policies(policy)
        self._policy = self.policies.of(policy)
        self.endpoints = tuple(Endpoint(Address(f"10.0.{n // 250}.{n % 250}", 8000)) for n in range(PODS))

    def choose(self, turn: Turn) -> int:
        features = Features(read_body(turn.body()), (), b"")
        return self.endpoints.index(self._policy.choose(self.endpoints, features))


@dataclass
class Job:
    turn: Turn
    arrived: float
    router: Router
    pod: int


@dataclass
class Outcome:
    """What one run came to, after its warm-up."""

    hits: int = 0
    tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)  # the largest load over the mean one, sampled

    def figures(self) -> dict[str, float]:
        cuts = statistics.quantiles(self.ttft_s, n=100)
        return {
            "hit_rate": self.hits / self.tokens,
            "ttft_p50_ms": 1000 * cuts[49],
            "ttft_p99_ms": 1000 * cuts[98],
            "balance": statistics.fmean(self.spread),
        }


class Simulation:
    """Runs arrivals against pods in the order of simulated time."""

    def __init__(self, policy: PolicyName, routers: int, arrivals: Iterator[tuple[float, Turn]]) -> None:
        self._routers = [Router(policy) for _ in range(routers)]
        self._pods = [Pod() for _ in range(PODS)]
        self._arrivals = arrivals
        self._chance = random.Random(5)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._now = 0.0
        self._outcome = Outcome()

    def run(self) -> Outcome:
        self._next_arrival()
        self._at(0.0, self._tell_loads)
        while self._events and self._now < SECONDS:
            self._now, _, act = heapq.heappop(self._events)
            act()
        return self._outcome

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))

    def _next_arrival(self) -> None:
        when, turn = next(self._arrivals)
        self._at(when, lambda: (self._arrive(turn), self._next_arrival())[0])

    def _tell_loads(self) -> None:
        loads = [pod.load for pod in self._pods]
        for router in self._routers:
            for endpoint, load in zip(router.endpoints, loads, strict=True):
                endpoint.report(load, self._now)
        if self._now > WARM_UP_S and any(loads):
            self._outcome.spread.append(max(loads) / statistics.fmean(loads))
        self._at(self._now + LOAD_AGE_S, self._tell_loads)

    def _arrive(self, turn: Turn) -> None:
        router = self._chance.choice(self._routers)
        job = Job(turn, self._now, router, router.choose(turn))
        router.endpoints[job.pod].enter(self._now)
        pod = self._pods[job.pod]
        pod.load += 1
        pod.queue.append(job)
        if not pod.busy:
            self._prefill(pod)

    def _prefill(self, pod: Pod) -> None:
        pod.busy = bool(pod.queue)
        if not pod.busy:
            return
        job = pod.queue.pop(0)
        total = sum(tokens for _, tokens in job.turn.prompt)
        cached = min(pod.cached(job.turn.prompt), total - 1)
        pod.keep(job.turn.prompt)
        if self._now > WARM_UP_S:
            self._outcome.hits += cached
            self._outcome.tokens += total
        self._at(self._now + (total - cached) / PREFILL_TOK_S, lambda: self._begun(pod, job))

    def _begun(self, pod: Pod, job: Job) -> None:
        if job.arrived > WARM_UP_S:
            self._outcome.ttft_s.append(self._now - job.arrived + TPOT_S)
        self._at(self._now + TPOT_S * job.turn.answer[1], lambda: self._done(pod, job))
        self._prefill(pod)

    def _done(self, pod: Pod, job: Job) -> None:
        pod.load -= 1
        job.router.endpoints[job.pod].leave()
        pod.keep([*job.turn.prompt, job.turn.answer])
        following = job.turn.then()
        if following is not None:
            self._at(self._now + job.turn.think_s, lambda: self._arrive(following))


def conversation(number: int, chance: random.Random) -> Turn:
    """A chat of some turns after one of eight system prompts."""
    turns = 1 + int(chance.expovariate(1 / 6))
    prompt: list[Segment] = [(f"system {number % 8}", 800)]

    def turn(index: int) -> Turn:
        prompt.append((f"user {number} {index}", chance.randint(50, 400)))
        answer = (f"answer {number} {index}", chance.randint(50, 300))
        whole = list(prompt)
        prompt.append(answer)
        roles = ["system", *["user", "assistant"] * len(whole)][: len(whole)]
        then: Callable[[], Turn | None] = lambda: turn(index + 1) if index + 1 < turns else None  # noqa: E731
        return Turn(f"user {number}", roles, whole, answer, then, chance.expovariate(1 / 10))

    return turn(0)


def question(number: int, chance: random.Random) -> Turn:
    """One question about one of 400 documents, some of which are asked about much more than others."""
    document = min(int(chance.paretovariate(0.9)), 400)
    prompt = [(f"document {document}", 4_000), (f"question {number}", 40)]
    return Turn(f"user {number}", ["system", "user"], prompt, (f"answer {number}", 100), lambda: None, 0)


WORKLOADS: dict[str, tuple[Callable[[int, random.Random], Turn], float]] = {
    "multi_turn": (conversation, 36.0),  # new conversations a second
    "shared_prefix": (question, 200.0),
}


def arrivals(workload: str) -> Iterator[tuple[float, Turn]]:
    make, rate = WORKLOADS[workload]
    chance, now = random.Random(11), 0.0
    for number in itertools.count():
        now += chance.expovariate(rate)
        yield now, make(number, chance)


def simulate(workload: str, policy: PolicyName, routers: int) -> dict[str, float]:
    """The figures of one run."""
    return Simulation(policy, routers, arrivals(workload)).run().figures()
