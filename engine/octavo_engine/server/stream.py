"""Server-sent events. Per chunk only the text is encoded; all around it is bytes made once a request."""

from __future__ import annotations

from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


class ChunkEncoder:
    """The chunks of one stream. ``opening`` and ``closing`` surround a choice's text."""

    def __init__(self, head: dict[str, Any], opening: bytes, closing: bytes, include_usage: bool) -> None:
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._opening = opening
        self._closing = closing
        self._tail = (b'],"usage":null}' if include_usage else b"]}") + b"\n\n"

    def show_usage(self, usage: dict[str, Any]) -> None:
        """The chunks from here on tell the usage so far."""
        self._tail = b'],"usage":' + _encode(usage) + b"}\n\n"

    def delta(
        self,
        index: int,
        text: str,
        logprobs: object = None,
        finish: str | None = None,
        more: dict[str, list[int]] | None = None,
    ) -> bytes:
        """One choice's new text, and ``more`` fields of the choice."""
        ending = b',"finish_reason":null}' if finish is None else b',"finish_reason":"%b"}' % finish.encode()
        return b"".join(
            (
                self._head,
                b'{"index":%d,' % index,
                self._opening,
                _encode(text),
                self._closing,
                b',"logprobs":',
                b"null" if logprobs is None else _encode(logprobs),
                b"," + _encode(more)[1:-1] if more else b"",
                ending,
                self._tail,
            )
        )

    def raw(self, choice: dict[str, Any], more: dict[str, list[int]] | None = None) -> bytes:
        """A choice spelled out, for the rare chunk that is no text; ``more`` stands beside the choices."""
        beside = b"]," + _encode(more)[1:-1] + self._tail[1:] if more else self._tail
        return self._head + _encode(choice) + beside

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The last chunk: no choices, the usage."""
        return self._head + b'],"usage":' + _encode(usage) + b"}\n\n"
