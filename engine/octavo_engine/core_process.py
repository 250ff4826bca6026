"""The engine-core process: scheduler and runner behind two message queues.

API process                          core process
───────────                          ────────────
stdin ── CoreSpec, then held open ─> ends itself when the pipe closes: no orphan survives its API process
PUSH  ── CoreRequest ──────────────> PULL   main thread: receive, step, send
PULL  <────────────── CoreMessage ── PUSH   main thread: Ready, StepOutputs, Fatal
      <────────────── Heartbeat ──── PUSH   a thread beside the loop, once a second

Several API processes have a pair of sockets each; the process that started the core is client 0.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import msgspec
import zmq

from octavo_engine.config import EngineConfig
from octavo_engine.engine import EngineCore
from octavo_engine.errors import EngineError, in_one_line
from octavo_engine.fan_out import ClientAddress, FanOut
from octavo_engine.messages import (
    AbortClient,
    AbortRequests,
    AddRequest,
    CoreRequest,
    EngineStats,
    Fatal,
    GroupRunner,
    Heartbeat,
    Runner,
    StepOutputs,
)

MODEL_RUNNER = "octavo_engine.runner.start:runner_for"
_HEARTBEAT_SECONDS = 1.0
_LINGER_MS = 2000  # how long an ending process waits for its last words to be read
_LAST_WORDS_SECONDS = 1.0  # the same, where it ends with a thread that hangs


class CoreSpec(msgspec.Struct, frozen=True):
    """What a core process is started with. ``runner``: ``module:name`` of what makes one from a config."""

    config: EngineConfig
    clients: list[ClientAddress]
    runner: str = MODEL_RUNNER


class CoreLoop:
    """Requests in, step outputs out, until :class:`Shutdown` comes."""

    def __init__(self, core: EngineCore, requests: zmq.Socket[bytes], clients: FanOut) -> None:
        self._core = core
        self._requests = requests
        self._clients = clients
        self._decoder = msgspec.msgpack.Decoder(CoreRequest)
        self._reported = EngineStats()
        self._running = True
        self.last_round = time.monotonic()

    def run(self) -> None:
        while self._running:
            self.last_round = time.monotonic()
            for request in self._receive(wait=not self._core.has_work()):
                self._apply(request)
            self._step()

    def _receive(self, wait: bool) -> Iterator[CoreRequest]:
        if wait and not self._requests.poll(int(_HEARTBEAT_SECONDS * 1000)):
            return
        while self._requests.poll(0):
            yield self._decoder.decode(self._requests.recv(zmq.NOBLOCK))

    def _apply(self, request: CoreRequest) -> None:
        if isinstance(request, AddRequest):
            self._core.add(request)
        elif isinstance(request, AbortRequests):
            self._core.abort(request.request_ids, request.sequences)
        elif isinstance(request, AbortClient):
            self._core.abort_client(request.client, request.incarnation)
        else:
            self._running = False

    def _step(self) -> None:
        outputs = self._core.step() if self._core.has_work() else StepOutputs([], self._core.stats)
        if outputs.outputs or outputs.stats != self._reported:
            self._reported = outputs.stats
            self._clients.deliver(outputs)


class Heart(threading.Thread):
    """Says once a second how long the step and the loop have been at it; says so even while they hang."""

    def __init__(self, core: EngineCore, loop: CoreLoop, clients: FanOut) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._core = core
        self._loop = loop
        self._clients = clients
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(_HEARTBEAT_SECONDS):
            self._clients.tell_all(self._beat(time.monotonic()))

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def _beat(self, now: float) -> Heartbeat:
        started = self._core.step_started
        step_age = 0.0 if started is None else max(0.0, now - started)
        return Heartbeat(self._core.steps, step_age, max(0.0, now - self._loop.last_round))


def run_core(spec: CoreSpec) -> int:
    """Serve until told to stop; returns the exit code. A failure is sent as one :class:`Fatal` sentence."""
    context = zmq.Context()
    context.linger = _LINGER_MS  # of all sockets, also of those that the heart drops
    requests = context.socket(zmq.PULL)
    for client in spec.clients:
        requests.connect(client.requests)
    clients = FanOut(context, spec.clients)
    try:
        _serve(spec, context, requests, clients)
        return 0
    except EngineError as error:
        clients.tell_all(Fatal(str(error)))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()  # a fault of the engine's own: whoever mends it needs the place
        clients.tell_all(Fatal(f"The engine core failed: {in_one_line(error)}"))
        return 1
    finally:
        context.destroy()


def _serve(
    spec: CoreSpec,
    context: zmq.Context[zmq.Socket[bytes]],
    requests: zmq.Socket[bytes],
    clients: FanOut,
) -> None:
    runner = _load_runner(spec)
    if isinstance(runner, GroupRunner):
        runner.on_failure(lambda error: _end_now(error, context, spec.clients))
    core = EngineCore(spec.config, runner)
    ready = core.start()
    gc.collect()
    gc.freeze()  # what start-up made lives for ever; collections need not walk it
    loop = CoreLoop(core, requests, clients)
    heart = Heart(core, loop, FanOut(context, spec.clients))  # sockets belong to one thread each
    clients.tell_all(ready)
    heart.start()
    try:
        loop.run()
    finally:
        heart.stop()
        core.shutdown()


def _end_now(
    error: EngineError, context: zmq.Context[zmq.Socket[bytes]], clients: list[ClientAddress]
) -> None:
    """End from another thread: the main one may wait in torch, without end, for a rank that is lost."""
    with contextlib.suppress(zmq.ZMQError):  # the main thread was not stuck, and says the same
        FanOut(context, clients).tell_all(Fatal(str(error)))
    time.sleep(_LAST_WORDS_SECONDS)  # the context may not be closed under the main thread's feet
    os._exit(error.exit_code)


def _load_runner(spec: CoreSpec) -> Runner:
    module, _, name = spec.runner.partition(":")
    runner: Runner = getattr(importlib.import_module(module), name)(spec.config)
    return runner


def _end_with_parent(pipe: int) -> None:
    while os.read(pipe, 4096):  # not through sys.stdin: its lock would hold up this process's own end
        pass
    os._exit(1)  # the API process is gone: nobody is left to tell


def main() -> int:
    """Entry of the process: the spec is stdin's first line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the API process hears signals and decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=CoreSpec)
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    return run_core(spec)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # torch's own way out may wait for ranks that are gone
