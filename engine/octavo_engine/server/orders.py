"""What a supervisor and its API processes tell each other, as lines of JSON over pipes."""

from __future__ import annotations

import msgspec

from octavo_engine.fan_out import ClientAddress
from octavo_engine.messages import Ready
from octavo_engine.server.options import ServerOptions


class WorkerSpec(msgspec.Struct, frozen=True):
    """What a worker is started with. ``listener``: file descriptor of its socket on the common port."""

    options: ServerOptions
    client: int
    incarnation: int  # how many workers stood in its place before
    address: ClientAddress
    listener: int
    log_level: int
    ready: Ready | None = None  # what the core said before this worker was there to hear it


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Refuse new requests, finish running ones, report :class:`Drained`, and go on refusing."""


class CoreEnded(msgspec.Struct, frozen=True, tag="core_ended"):
    """The core is dead: tell it to whoever waits, and end."""

    sentence: str
    exit_code: int


Order = Drain | CoreEnded


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """Nothing runs any more."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The worker cannot serve and ends; another one could not either."""

    sentence: str
    exit_code: int


Report = Drained | Failed
