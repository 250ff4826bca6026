"""What supervisor and workers tell each other over a socket pair: a start, then states when asked."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from octavo_router.metrics import Snapshot
from octavo_router.overview import Overview

ASK = b"?"
_LENGTH = struct.Struct("!I")


class Start(msgspec.Struct, frozen=True):
    """What a worker is told first."""

    settings: dict[str, Any]
    static: str | None


class State(msgspec.Struct, frozen=True):
    """Why a worker is unready or broken, if it is, its figures, and for the page its models."""

    unready: str | None
    broken: str | None
    figures: Snapshot
    models: Overview = {}


_decode_state = msgspec.msgpack.Decoder(State).decode


def start_line(start: Start) -> bytes:
    return msgspec.json.encode(start) + b"\n"


def read_start(channel: socket.socket) -> Start:
    """Waits for what a worker is told first; its loop does not run yet."""
    with channel.makefile("rb", buffering=0) as told:
        return msgspec.json.decode(told.readline(), type=Start)


async def read_state(reader: asyncio.StreamReader) -> State:
    """The answer to `ASK`. Raises IncompleteReadError when the worker is gone."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return _decode_state(await reader.readexactly(length))


async def answer(channel: socket.socket, state: Callable[[], State]) -> None:
    """Tells the state whenever it is asked for, until the supervisor is gone."""
    reader, writer = await asyncio.open_connection(sock=channel)
    while await reader.read(len(ASK)):
        data = msgspec.msgpack.encode(state())
        writer.write(_LENGTH.pack(len(data)) + data)
    writer.close()
