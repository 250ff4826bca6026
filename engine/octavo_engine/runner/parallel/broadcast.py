"""Commands from the core to all ranks, in one order: shared memory on its own node, ZeroMQ to others."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import zmq

from octavo_engine.runner.parallel.ring import RingWriter
from octavo_engine.runner.parallel.wire import Command


class Broadcast:
    """``near``: ranks of this node, readers of the ring in this order; ``far``: ranks of other nodes."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        host: str,
        near: Sequence[int],
        far: Sequence[int],
    ) -> None:
        self.ring = RingWriter(len(near)) if near else None
        self.reader_of = {rank: reader for reader, rank in enumerate(near)}
        self._sockets = {rank: _bound(context, host) for rank in far}
        self._encode = msgspec.msgpack.Encoder().encode

    def address(self, rank: int) -> str:
        """Where a rank of another node finds its commands."""
        return self._sockets[rank].getsockopt_string(zmq.LAST_ENDPOINT) if rank in self._sockets else ""

    def send(self, command: Command) -> None:
        data = self._encode(command)
        for socket in self._sockets.values():
            socket.send(data)
        if self.ring is not None:
            self.ring.send(data)

    def close(self) -> None:
        if self.ring is not None:
            self.ring.unlink()
        for socket in self._sockets.values():
            socket.close(linger=1000)


def _bound(context: zmq.Context[zmq.Socket[bytes]], host: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.PUSH)
    socket.set_hwm(0)
    socket.bind(f"tcp://{host}:*")
    return socket
