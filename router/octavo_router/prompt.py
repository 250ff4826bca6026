"""What the router reads of a request's body: the model, and the prompt as a chain of hashed blocks. Pure.

The prompt is taken in pieces: the structure of `messages` is decoded, so that spaces and the order of keys do
not matter, but strings stay as the client escaped them. To decode them as well costs a fifth more time, for
one gain: clients that escape the same text differently (`\\u00e9`, `é`) would share blocks. The figures are
in docs/performance.md.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import xxhash

from octavo_router.errors import InvalidRequestError, MissingModelError

Header = tuple[bytes, bytes]

_NONE = msgspec.Raw(b"")
_USER = b'"user"'
_PLAIN_ANCHOR_BYTES = 1024  # of a prompt without messages: nothing tells where its conversation begins
_ANCHOR_BYTES = 8192  # of the first user message: a question that ends a long document does not count


class _Message(msgspec.Struct, gc=False):
    """The pieces of a message that a chat template renders, images and tool calls included."""

    role: msgspec.Raw = _NONE
    content: msgspec.Raw = _NONE
    name: msgspec.Raw = _NONE
    tool_calls: msgspec.Raw = _NONE
    tool_call_id: msgspec.Raw = _NONE


class Asked(msgspec.Struct, gc=False):
    """A body, as far as the router looks into it. Other fields are skipped, not built."""

    model: str
    messages: list[_Message] = []
    prompt: msgspec.Raw = _NONE
    tools: msgspec.Raw = _NONE
    cache_salt: msgspec.Raw = _NONE
    user: msgspec.Raw = _NONE
    stream: object = None

    @property
    def streams(self) -> bool:
        return self.stream is True


class _Named(msgspec.Struct, gc=False):
    model: str


_decode = msgspec.json.Decoder(Asked).decode
_decode_name = msgspec.json.Decoder(_Named).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_hash = xxhash.xxh3_64_intdigest
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # no JSON, or nested too deeply


def read_body(body: bytes) -> Asked:
    """What a body asks for. Whether the rest of it makes sense is for the engine to say.

    Raises:
        InvalidRequestError: the body is not a JSON object.
        MissingModelError: it has no `model`, or that is not a string.
    """
    try:
        return _decode(body)
    except msgspec.ValidationError:
        return Asked(_name_of(body))  # messages of another shape: the engine will refuse them
    except _UNREADABLE as error:
        raise _not_json(error) from None


def _not_json(error: Exception) -> InvalidRequestError:
    return InvalidRequestError(f"The body is not valid JSON: {error}.")


def _name_of(body: bytes) -> str:
    try:
        return _decode_name(body).model
    except msgspec.ValidationError as error:
        raise MissingModelError(f"The body must be a JSON object with the string `model`: {error}.") from None
    except _UNREADABLE as error:  # behind what did not fit
        raise _not_json(error) from None


def renamed(body: bytes, model: str) -> bytes:
    """The body with another `model`; all else stays byte for byte. Raises InvalidRequestError."""
    try:
        fields = _decode_fields(body)
    except _UNREADABLE as error:
        raise _not_json(error) from None
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def _block_ends() -> Iterator[int]:
    """Where blocks end, in bytes: small ones first, since short prompts share only their beginning."""
    end = 0
    for size, until in ((256, 4 << 10), (1 << 10, 64 << 10), (4 << 10, 1 << 20), (64 << 10, 64 << 20)):
        while end < until:
            end += size
            yield end


_ENDS: Final = tuple(_block_ends())
_MOST: Final = (1, *(max(1, bisect_right(_ENDS, 0.9 * end)) for end in _ENDS))


def chained(text: bytes, seed: int) -> list[int]:
    """One hash a full block, each over its block and all before it; what is left of the text has none."""
    hashes: list[int] = []
    start, size, chain = 0, len(text), seed
    for end in _ENDS:
        if end > size:
            break
        chain = _hash(text[start:end], chain)
        hashes.append(chain)
        start = end
    return hashes


class Prompt(msgspec.Struct, gc=False):
    """A prompt as policies see it."""

    blocks: list[int]  # chained hashes
    anchor: int  # a hash of the conversation's beginning up to its first question: the same in all its turns
    anchor_end: int  # in bytes: what goes on beyond this is this conversation's alone

    @property
    def anchor_blocks(self) -> int:
        """How many blocks the anchor reaches into."""
        return bisect_left(_ENDS, self.anchor_end) + 1

    @property
    def most(self) -> int:
        """How many of the leading blocks lie within nine tenths of their bytes; at least 1."""
        return _MOST[len(self.blocks)]


class Features(msgspec.Struct, eq=False):
    """What a policy may look at in a request. It is worked out anew each time it is asked for."""

    asked: Asked
    headers: Sequence[Header] = ()
    session_header: bytes = b""

    @property
    def has_prompt(self) -> bool:
        return bool(self.asked.messages) or self.asked.prompt is not _NONE

    @property
    def prompt(self) -> Prompt:
        """All of the messages, images and tool calls too, or `prompt`; after the tools."""
        asked, seed = self.asked, self._seed
        messages = asked.messages
        if not messages:
            text = bytes(asked.prompt)
            anchor = _hash(text[:_PLAIN_ANCHOR_BYTES], seed)
            return Prompt(chained(text, seed), anchor, _PLAIN_ANCHOR_BYTES)
        opening = 0
        while opening + 1 < len(messages) and bytes(messages[opening].role) != _USER:
            opening += 1
        before = b"".join(_pieces(messages[:opening])) if opening else b""
        text = b"".join(_pieces(messages))
        at, size = len(before) + len(messages[opening].role), len(messages[opening].content)
        first = text[at : at + min(size, _ANCHOR_BYTES)]  # no second copy of what may be long
        anchor = _hash(first, _hash(before, seed))
        return Prompt(chained(text, seed), anchor, len(before) + len(first))

    @property
    def session(self) -> int | None:
        """A hash of the session's header or, without it, of `user`; None when the request has neither."""
        for name, value in self.headers:
            if value and name.lower() == self.session_header:
                return _hash(value)
        user = bytes(self.asked.user)
        return _hash(user) if user not in (b"", b"null", b'""') else None

    @property
    def _seed(self) -> int:
        tools, salt = self.asked.tools, self.asked.cache_salt
        return 0 if tools is _NONE and salt is _NONE else _hash(bytes(salt), _hash(bytes(tools)))


def _pieces(messages: list[_Message]) -> list[msgspec.Raw]:
    pieces: list[msgspec.Raw] = []
    for m in messages:
        pieces += (m.role, m.content)
        if m.name is not _NONE or m.tool_calls is not _NONE or m.tool_call_id is not _NONE:
            pieces += (m.name, m.tool_calls, m.tool_call_id)
    return pieces
