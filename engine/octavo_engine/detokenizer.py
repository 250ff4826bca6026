"""Token ids to text as they arrive: whole characters only, and stop strings found across token borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from octavo_engine.sampling_params import SamplingParams

_CONTEXT = 6  # prompt tokens kept before the first output token: some decoders strip a text's leading space
_PATIENCE = 16  # tokens that may wait for the rest of a character; a character has at most 4 bytes
_INCOMPLETE = "\ufffd"


class Decoder(Protocol):
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


class IncrementalDetokenizer:
    """The text of one sequence. Each push decodes only a short window, however long the text has grown.

    ``prompt_token_ids`` are context and do not appear in the text. After :attr:`stopped_by` is set, further
    pushes yield nothing.
    """

    def __init__(
        self, tokenizer: Decoder, params: SamplingParams, prompt_token_ids: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._params = params
        self._window = list(prompt_token_ids[-_CONTEXT:])  # context, then tokens whose text is not out yet
        self._pending_from = len(self._window)
        self._context_text = self._decode(self._window).rstrip(_INCOMPLETE)
        self._matcher = _StopMatcher(params.stop, params.include_stop_str_in_output)
        self._count = 0
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """All text released so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the text, when one did."""
        return self._matcher.matched

    def push(self, token_ids: Sequence[int], stop_token_id: int | None = None) -> str:
        """The text that is now certain; withheld are unfinished characters and what may begin a stop string.

        ``stop_token_id``: the last of ``token_ids`` ended the sequence; its text is left out unless
        ``include_stop_str_in_output`` is set.
        """
        if stop_token_id is not None and not self._params.include_stop_str_in_output:
            token_ids = token_ids[:-1]
        early = max(0, min(len(token_ids), self._params.min_tokens - self._count))
        self._count += len(token_ids)
        before = self._new_text(token_ids[:early]) if early else ""  # no stop string counts before min_tokens
        after = self._new_text(token_ids[early:]) if early < len(token_ids) else ""
        return self._release(before + self._matcher.feed(after))

    def finish(self) -> str:
        """What was still withheld, now that nothing more comes."""
        rest = self._decode(self._window)[len(self._context_text) :]
        self._advance(rest)
        return self._release(self._matcher.feed(rest) + self._matcher.flush())

    def _new_text(self, token_ids: Sequence[int]) -> str:
        self._window.extend(token_ids)
        delta = self._decode(self._window)[len(self._context_text) :]
        waiting = not delta or delta.endswith(_INCOMPLETE)
        if waiting and len(self._window) - self._pending_from < _PATIENCE:
            return ""
        self._advance(delta)
        return delta

    def _advance(self, delta: str) -> None:
        if delta:
            del self._window[: self._pending_from]
        else:
            del self._window[self._pending_from :]  # tokens without text must not push the context out
        self._pending_from = len(self._window)
        self._context_text = self._decode(self._window)

    def _release(self, text: str) -> str:
        if text:
            self._parts.append(text)
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, self._params.skip_special_tokens)


class _StopMatcher:
    """Lets text through up to the first stop string; the result does not depend on how the text is cut."""

    def __init__(self, stops: Sequence[str], include: bool) -> None:
        self._stops = stops
        self._include = include
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        ends = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            return self._stop(text, *min(ends))
        kept = _longest_beginning(text, self._stops)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    def _stop(self, text: str, end: int, start: int, stop: str) -> str:
        self.matched, self._held = stop, ""
        return text[:end] if self._include else text[:start]


def _longest_beginning(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of ``text`` with which some stop string begins."""
    longest = min(len(text), max(map(len, stops)) - 1)
    return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in stops)), 0)
