"""What the core and the ranks' worker processes tell each other, as msgpack."""

from __future__ import annotations

from typing import Literal

import msgspec

from octavo_engine.config import EngineConfig
from octavo_engine.messages import RunnerSpec, StepInput


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is started with. ``ring``: shared memory that brings commands, of which it is reader
    ``reader``; None: they come from ``commands``. Addresses are ZeroMQ's."""

    config: EngineConfig
    rank: int
    device: int  # index of its GPU in its own process
    neighbours: int  # ranks that share this node's processors
    ring: str | None = None
    reader: int = 0
    commands: str = ""
    reports: str = ""
    results: str = ""


# ---- core -> workers -------------------------------------------------------------------------------------
class Join(msgspec.Struct, frozen=True, tag="join"):
    """Meet the other ranks at the store on ``host``:``port``."""

    host: str
    port: int


class Load(msgspec.Struct, frozen=True, tag="load"):
    pass


class Profile(msgspec.Struct, frozen=True, tag="profile"):
    pass


class Allocate(msgspec.Struct, frozen=True, tag="allocate"):
    num_blocks: int
    num_host_blocks: int


class Step(msgspec.Struct, frozen=True, tag="step"):
    step: StepInput


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    pass


Command = Join | Load | Profile | Allocate | Step | Stop


# ---- workers -> core -------------------------------------------------------------------------------------
ARRIVED = "arrive"  # Done, before a rank joins: one that never does is missed by others, not to blame
Doing = Literal["idle", "working", "waiting"]  # waiting: for other ranks, or for a GPU


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    rank: int
    host: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A command was carried out; ``command`` is its tag."""

    rank: int
    command: str
    spec: RunnerSpec | None = None
    blocks: tuple[int, int] | None = None


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Once a second. ``moved`` changes as the work at hand moves on; ``steps`` are those that are done."""

    rank: int
    steps: int
    moved: int
    doing: Doing


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The rank ends. ``lost_peer``: it may only suffer from another one's end."""

    rank: int
    sentence: str
    lost_peer: bool
    exit_code: int = 1


Report = Hello | Done | Beat | Failed
