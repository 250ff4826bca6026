"""What the core tells its API processes: to each its own outputs, in one message a step."""

from __future__ import annotations

from collections import defaultdict

import msgspec
import zmq

from octavo_engine.messages import CoreMessage, SequenceOutput, StepOutputs, origin_of


class ClientAddress(msgspec.Struct, frozen=True):
    """Where one API process listens (``messages``) and sends from (``requests``)."""

    requests: str
    messages: str


class FanOut:
    """Sockets to all API processes; belongs to one thread. Sending never waits for a reader."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], clients: list[ClientAddress]) -> None:
        self._sockets = [_connected(context, client.messages) for client in clients]
        self._encode = msgspec.msgpack.Encoder().encode

    def tell_all(self, message: CoreMessage) -> None:
        content = self._encode(message)
        for socket in self._sockets:
            socket.send(content)

    def deliver(self, step: StepOutputs) -> None:
        """The outputs to whom they belong, the statistics to all."""
        if len(self._sockets) == 1:
            self.tell_all(step)
            return
        shares: defaultdict[int, list[SequenceOutput]] = defaultdict(list)
        for output in step.outputs:
            shares[origin_of(output.request_id)[0]].append(output)
        nothing = self._encode(StepOutputs([], step.stats))
        for client, socket in enumerate(self._sockets):
            share = shares.get(client)
            socket.send(self._encode(StepOutputs(share, step.stats)) if share else nothing)


def _connected(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.PUSH)
    socket.set_hwm(0)
    socket.connect(address)
    return socket
