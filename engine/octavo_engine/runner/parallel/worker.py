"""The process of one rank beside the core: carries out what the core tells all ranks.

core ── commands (shared memory on one node, ZeroMQ between nodes) ──> main thread
core <── reports (Hello, Done, Failed; Beat from a thread beside) ──── main thread
core <── results (of the one rank that reports) ────────────────────── main thread
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import zmq

from octavo_engine.errors import EngineError, in_one_line
from octavo_engine.runner.parallel.launcher import END_WITH_PARENT
from octavo_engine.runner.parallel.parent import end_with_parent
from octavo_engine.runner.parallel.pulse import Pulse
from octavo_engine.runner.parallel.ring import RingReader
from octavo_engine.runner.parallel.topology import Place
from octavo_engine.runner.parallel.wire import (
    ARRIVED,
    Allocate,
    Beat,
    Command,
    Done,
    Failed,
    Hello,
    Join,
    Load,
    Profile,
    Report,
    Step,
    Stop,
    WorkerSpec,
)

if TYPE_CHECKING:
    from octavo_engine.runner.model_runner import ModelRunner

_IDLE_SECONDS = 1.0
_BUSY_SECONDS = 200e-6  # between two looks at whether a step is done
_MOST_IN_FLIGHT = 8
_BEAT_SECONDS = 1.0
_LINGER_MS = 1000
_encode = msgspec.msgpack.Encoder().encode


class Mail:
    """The worker's sockets; each belongs to the thread that made it."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.context = zmq.Context()
        self.context.linger = _LINGER_MS  # of all sockets, also of one that its thread drops
        self._ring = None if spec.ring is None else RingReader(spec.ring, spec.reader)
        self._commands = None if spec.ring else self._connected(zmq.PULL, spec.commands)
        self._reports = self._connected(zmq.PUSH, spec.reports)
        self._results = self._connected(zmq.PUSH, spec.results)
        self._spec = spec
        self._decoder = msgspec.msgpack.Decoder(Command)

    def receive(self, seconds: float) -> Command | None:
        data = self._ring.receive(seconds) if self._ring is not None else self._pull(seconds)
        if data is None:
            return None
        command: Command = self._decoder.decode(data)
        return command

    def report(self, message: Report) -> None:
        self._reports.send(_encode(message))

    def result(self, message: msgspec.Struct) -> None:
        self._results.send(_encode(message))

    def beats(self) -> Callable[[Report], None]:
        """A way to report from another thread, which is to call this itself."""
        socket = self._connected(zmq.PUSH, self._spec.reports)
        return lambda message: socket.send(_encode(message))

    def close(self) -> None:
        self.context.destroy()

    def _pull(self, seconds: float) -> bytes | None:
        found = self._commands is not None and self._commands.poll(max(1, int(seconds * 1e3)))
        return self._commands.recv() if self._commands is not None and found else None

    def _connected(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.set_hwm(0)
        socket.connect(address)
        return socket


class Worker:
    def __init__(self, spec: WorkerSpec, mail: Mail) -> None:
        self._spec, self._mail = spec, mail
        self._place = Place(spec.rank, spec.config.parallel.tensor, spec.config.parallel.pipeline)
        self._runner: ModelRunner | None = None
        self._pulse = Pulse()
        self._in_flight = 0
        self._steps = 0

    def run(self) -> None:
        """Until told to stop."""
        while True:
            command = self._mail.receive(_BUSY_SECONDS if self._in_flight else _IDLE_SECONDS)
            if isinstance(command, Step):
                self._launch(command)
            elif isinstance(command, Stop):
                return
            elif command is not None:
                self._mail.report(self._obey(command))
            elif self._in_flight and self.runner.ready():
                self._collect()

    @property
    def runner(self) -> ModelRunner:
        if self._runner is None:
            raise EngineError("A rank was told to work before it had joined the others.")
        return self._runner

    def _obey(self, command: Join | Load | Profile | Allocate) -> Done:
        rank, tag = self._spec.rank, type(command).__name__.lower()
        if isinstance(command, Join):
            self._join(command)
        elif isinstance(command, Load):
            return Done(rank, tag, spec=self.runner.load())
        elif isinstance(command, Profile):
            return Done(rank, tag, blocks=self.runner.profile_blocks())
        else:
            self.runner.allocate(command.num_blocks, command.num_host_blocks)
        return Done(rank, tag)

    def _join(self, meeting: Join) -> None:
        from octavo_engine.runner.parallel.seat import take_seat

        spec = self._spec
        self._mail.report(Done(spec.rank, ARRIVED))
        self._runner = take_seat(spec.config, self._place, spec.device, spec.neighbours, meeting, self._pulse)

    def leave(self) -> None:
        """Part from the others."""
        if self._runner is not None:
            from octavo_engine.runner.parallel.seat import leave

            self._runner.shutdown()
            leave()

    def _launch(self, command: Step) -> None:
        self._in_flight += 1
        self._pulse.moved()
        self.runner.launch(command.step)
        while self._in_flight > _MOST_IN_FLIGHT:
            self._collect()

    def _collect(self) -> None:
        result = self.runner.collect()
        if self._place.reports:
            self._mail.result(result)
        self._in_flight -= 1
        self._steps += 1
        self._pulse.moved()

    def beat(self) -> Beat:
        """What may be said from another thread."""
        return Beat(self._spec.rank, self._steps, self._pulse.count, self._pulse.doing(self._in_flight))


def serve(spec: WorkerSpec) -> int:
    """Be a rank until told to stop; returns the exit code. A failure is reported as one sentence."""
    mail = Mail(spec)
    worker = Worker(spec, mail)
    mail.report(Hello(spec.rank, platform.node()))
    stopping = threading.Event()
    beat = threading.Thread(target=_beat, args=(worker, mail, stopping), daemon=True)
    beat.start()
    code = 1
    try:
        worker.run()
        code = 0
    except EngineError as error:
        mail.report(Failed(spec.rank, str(error), False, error.exit_code))
    except Exception as error:
        suffers = lost_peer(error)
        if suffers:
            sys.stderr.write(f"{error}\n")  # NCCL's fills a page, and the report is one sentence
        else:
            traceback.print_exc()  # a fault of the rank's own: whoever mends it needs the place
        mail.report(Failed(spec.rank, in_one_line(error), suffers))
    worker.leave()
    stopping.set()
    beat.join()
    mail.close()
    return code


def lost_peer(error: Exception) -> bool:
    """Whether an error of torch's may tell of another rank's end rather than of a fault of one's own."""
    text = f"{type(error).__name__} {error}".lower()
    signs = ("gloo", "nccl", "connection", "distbackend", "timed out", "socket", "store")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def _beat(worker: Worker, mail: Mail, stopping: threading.Event) -> None:
    report = mail.beats()
    while not stopping.wait(_BEAT_SECONDS):
        report(worker.beat())


def _end_with_core(pipe: int) -> None:
    while os.read(pipe, 4096):
        pass
    os._exit(1)  # the core is gone: nobody is left to compute for


def main() -> int:
    """Entry of the process: the spec is stdin's first line, and stdin's end is the core's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if END_WITH_PARENT in sys.argv:  # a rank that hangs does not hear of its stdin's end
        end_with_parent(signal.SIGKILL)
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerSpec)
    threading.Thread(target=_end_with_core, args=(sys.stdin.fileno(),), daemon=True).start()
    code = serve(spec)
    sys.stderr.flush()
    os._exit(code)  # torch's own way out may wait for ranks that are gone


if __name__ == "__main__":
    sys.exit(main())
