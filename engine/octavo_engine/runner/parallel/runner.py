"""The runner of a model that several ranks share: rank 0 here, the others in processes of their own.

core:    launch(step) ── broadcast ──> every other rank
                     └─> rank 0's own runner
         collect() <─── the result of the rank that reports: rank 0, or the first of the last stage
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec
import zmq

from octavo_engine.config import EngineConfig
from octavo_engine.errors import EngineError
from octavo_engine.messages import RunnerSpec, StepInput, StepResult
from octavo_engine.runner.parallel.broadcast import Broadcast
from octavo_engine.runner.parallel.launcher import Launcher
from octavo_engine.runner.parallel.pulse import Pulse
from octavo_engine.runner.parallel.topology import places
from octavo_engine.runner.parallel.watch import Watch
from octavo_engine.runner.parallel.wire import (
    ARRIVED,
    Allocate,
    Beat,
    Done,
    Join,
    Load,
    Profile,
    Step,
    Stop,
    WorkerSpec,
)

if TYPE_CHECKING:
    from octavo_engine.runner.model_runner import ModelRunner

_FOR_EVER = 1e9
_STOP_SECONDS = 5.0
_ROUND_MS = 500


class ParallelRunner:
    """Fulfils :class:`octavo_engine.messages.Runner` for all ranks of ``config.parallel``."""

    def __init__(self, config: EngineConfig, launcher: Launcher) -> None:
        self._config, self._launcher = config, launcher
        self._places = places(config.parallel)
        self._context = zmq.Context()
        self._watch = Watch(
            self._context, self._places, launcher, config.parallel.collective_timeout, self._beat
        )
        here = launcher.here()
        near, far = [rank for rank in here if rank], sorted({p.rank for p in self._places} - set(here))
        self._broadcast = Broadcast(self._context, launcher.host, near, far)
        self._results = self._context.socket(zmq.PULL)
        self._decoder = msgspec.msgpack.Decoder(StepResult)
        self._own: ModelRunner | None = None
        self._launched: deque[StepInput] = deque()
        self._pulse = Pulse()
        self._called = False  # between calls nobody waits for the steps in flight
        self._steps = 0
        self._tokens: list[tuple[int, int, int]] = []

    def on_failure(self, tell: Callable[[EngineError], None]) -> None:
        """``tell`` is called, from another thread, when a rank is lost: the caller may be stuck meanwhile."""
        self._watch.on_failure = tell

    def load(self) -> RunnerSpec:
        """Start all ranks and read the weights. Errors: as a single runner's; RankLost."""
        try:
            with self._guarded():
                self._start()
                self._broadcast.send(Load())
                spec = self._rank_0.load()
                self._answers("load", _FOR_EVER, "read its weights")
        except BaseException:
            self.shutdown()
            raise
        stages = self._config.parallel.pipeline
        return msgspec.structs.replace(spec, steps_in_flight=stages + 1) if stages > 1 else spec

    def profile_blocks(self) -> tuple[int, int]:
        """The blocks that fit on every rank."""
        with self._guarded():
            self._broadcast.send(Profile())
            found = [self._rank_0.profile_blocks()]
            found += [done.blocks for done in self._answers("profile", _FOR_EVER, "measured") if done.blocks]
            return min(blocks for blocks, _ in found), min(host for _, host in found)

    def allocate(self, num_blocks: int, num_host_blocks: int) -> None:
        with self._guarded():
            self._broadcast.send(Allocate(num_blocks, num_host_blocks))
            self._rank_0.allocate(num_blocks, num_host_blocks)
            self._answers("allocate", _FOR_EVER, "made its KV cache")

    def launch(self, step: StepInput) -> None:
        with self._guarded():
            if self._tokens:
                step = msgspec.structs.replace(step, tokens=self._tokens)
                self._tokens = []
            self._broadcast.send(Step(step))
            self._launched.append(step)
            self._pulse.moved()
            self._rank_0.launch(step)

    def collect(self) -> StepResult:
        with self._guarded():
            result = self._rank_0.collect()
            self._steps += 1
            self._pulse.moved()
            if self._config.parallel.pipeline > 1:
                result = self._last_stages_result()
                self._note_tokens(self._launched[0], result)
            self._launched.popleft()
            self._pulse.moved()
            return result

    def _last_stages_result(self) -> StepResult:
        while not self._results.poll(_ROUND_MS):
            self._watch.check()
        result: StepResult = self._decoder.decode(self._results.recv())
        return result

    def _note_tokens(self, step: StepInput, result: StepResult) -> None:
        """The first stage's rows are to know them with the next step."""
        ends = {s.seq_id: s.num_computed_tokens + s.num_new_tokens for s in step.sequences if s.sample}
        sampled = (token for token in result.tokens if token.token_id >= 0)
        self._tokens += [(token.seq_id, ends[token.seq_id], token.token_id) for token in sampled]

    def shutdown(self) -> None:
        """End every rank."""
        from octavo_engine.runner.parallel.seat import leave

        self._watch.stop()
        if self._watch.failure is None:
            self._broadcast.send(Stop())
        self._launcher.end(_STOP_SECONDS if self._watch.failure is None else 0.0)
        self._broadcast.close()
        if self._own is not None and (self._own.on_cpu or self._watch.failure is None):
            self._own.shutdown()
        leave()
        self._context.destroy(linger=0)

    @property
    def _rank_0(self) -> ModelRunner:
        if self._own is None:
            raise EngineError("The runner was asked for work before it was loaded.")
        return self._own

    def _start(self) -> None:
        """Start the others, and meet them as soon as torch is there."""
        patience = self._config.parallel.start_timeout
        reports = self._watch.bind(f"tcp://{self._launcher.host}:*")
        self._results.bind(f"tcp://{self._launcher.host}:*")
        self._watch.start()
        self._launcher.start(self._spec(place.rank, reports) for place in self._places[1:])
        from octavo_engine.runner.parallel.process_group import open_store
        from octavo_engine.runner.parallel.seat import take_seat

        self._answers("start", patience, "started")
        store = open_store(self._launcher.host, patience)
        at = Join(self._launcher.host, store.port)
        self._broadcast.send(at)
        neighbours = len(self._launcher.here())
        self._answers(ARRIVED, patience, "come to meet the others")
        place, device = self._places[0], self._launcher.device
        self._own = take_seat(self._config, place, device, neighbours, at, self._pulse, store)
        self._answers("join", patience, "joined the others")
        if self._broadcast.ring is not None:
            self._broadcast.ring.unlink()  # all have it open: nothing is left behind, whatever happens

    def _spec(self, rank: int, reports: str) -> WorkerSpec:
        ring, near = self._broadcast.ring, self._broadcast.reader_of
        return WorkerSpec(
            config=self._config,
            rank=rank,
            device=self._launcher.device_of(rank),
            neighbours=len(near) + 1 if rank in near else 1,
            ring=str(ring.path) if ring is not None and rank in near else None,
            reader=near.get(rank, 0),
            commands=self._broadcast.address(rank),
            reports=reports,
            results=self._results.getsockopt_string(zmq.LAST_ENDPOINT),
        )

    def _answers(self, command: str, patience: float, hint: str) -> list[Done]:
        return self._watch.answers(command, patience, hint)

    def _beat(self) -> Beat:
        doing = self._pulse.doing(len(self._launched) if self._called else 0)
        return Beat(0, self._steps, self._pulse.count, doing)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turns what torch says of a lost rank into a sentence that names it."""
        self._called = True
        try:
            self._watch.check()
            yield
        except EngineError:
            raise
        except Exception as error:
            raise self._watch.explained(error) from error
        finally:
            self._called = False
