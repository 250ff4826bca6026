"""The listening socket, bound before anything is loaded, so that a busy port is told at once."""

from __future__ import annotations

import socket

from octavo_engine.errors import EngineError


def bind(host: str, port: int) -> socket.socket:
    """The listening socket. Errors: :class:`EngineError` when the address is taken or not ours."""
    return _bound(host, port, shared=False)


def bind_shared(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets on one port, among which the kernel spreads connections. Errors: as :func:`bind`."""
    with bind(host, port) as probe:  # sharing would hide that another server has the port
        port = probe.getsockname()[1]
    return [_bound(host, port, shared=True) for _ in range(count)]


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        sentence = f"Cannot listen on {host} port {port}: {reason}; choose another --host or --port."
        raise EngineError(sentence) from error
    return listener
