"""How many prompt tokens a step may compute beside decodes, so that those being answered hardly feel it.

Learned from what steps took; knows no clock itself. A step beside decodes may take ``slowdown`` times as long
as the same decodes alone. What those take is measured, not guessed: now and then a step goes without prompts.
When more than a few prompts wait, those being answered give way: large steps compute more tokens a second.
"""

from __future__ import annotations

from dataclasses import dataclass

_BUCKET = 16  # decodes that count as equally many
_FRESH = 64  # steps beside prompts for which a reading of decodes alone counts
_FIRST = 256  # prompt tokens while nothing is known of their cost
_FEWEST = 64  # prompt tokens of a step, lest a prompt take for ever
_TILE = 64  # tokens of a step that cost about as much as one fewer
_PADDED = 60  # decodes from which on steps are not padded
_MARGIN = 0.85  # of the slowdown that is aimed at
_UNFELT = 0.004  # seconds that prompts may always add
_FEW = 4  # prompts that may wait without anybody giving way for them
_CROWD = 32  # prompts for which all do
_WEIGHT = 0.2  # of a new reading
_CHEAPEST = 1e-9  # seconds a prompt token: beside slow decodes some steps seem to cost nothing more


@dataclass(slots=True)
class _Reading:
    """Seconds of a step of decodes alone, and steps beside prompts since."""

    seconds: float
    age: int = 0


class PrefillPace:
    def __init__(self, slowdown: float) -> None:
        """``slowdown`` 0: no bound."""
        self._slowdown = slowdown
        self._alone: dict[int, _Reading] = {}
        self._per_token: float | None = None
        self._limit = _FIRST
        self._noted = False

    def note(self, decodes: int, prompt_tokens: int, seconds: float) -> None:
        """What a step took."""
        self._noted = True
        if not prompt_tokens:
            self._note_alone(decodes, seconds)
        elif not decodes:
            self._per_token = self._per_token or seconds / prompt_tokens
        else:
            self._note_beside(decodes, prompt_tokens, seconds)

    def limit(self, decodes: int, waiting: int) -> int | None:
        """Prompt tokens that the next step may take beside ``decodes``; None when there is no bound.

        ``waiting``: prompts that are not complete. 0 when it is time to see what the decodes take alone.
        """
        if not (self._slowdown and decodes and waiting and self._noted) or waiting > _CROWD:
            return None
        reading = self._alone.get(decodes // _BUCKET)
        if reading is None or reading.age >= _FRESH:
            return 0
        if self._per_token is None:
            return _FIRST
        slowdown = self._slowdown * max(1.0, waiting / _FEW)
        extra = max((_MARGIN * slowdown - 1) * reading.seconds, _UNFELT)
        self._limit = _whole_tiles(decodes, max(_FEWEST, int(extra / max(self._per_token, _CHEAPEST))))
        return self._limit

    def _note_alone(self, decodes: int, seconds: float) -> None:
        reading = self._alone.setdefault(decodes // _BUCKET, _Reading(seconds))
        reading.seconds += _WEIGHT * (min(seconds, 4 * reading.seconds) - reading.seconds)
        reading.age = 0

    def _note_beside(self, decodes: int, prompt_tokens: int, seconds: float) -> None:
        reading = self._alone.get(decodes // _BUCKET)
        if reading is None:
            return
        reading.age += 1
        found = max(seconds - reading.seconds, 0.0) / prompt_tokens
        if self._per_token is None:
            self._per_token = found
        # A few tokens cost next to nothing, as the weights are read anyway: that says little of many.
        elif 2 * prompt_tokens >= self._limit or found > self._per_token:
            self._per_token += _WEIGHT * (min(found, 4 * self._per_token) - self._per_token)


def _whole_tiles(decodes: int, prompt_tokens: int) -> int:
    """Fewer prompt tokens where more would only fill the rest of a tile.

    Small steps of few sequences are padded to multiples of 128 tokens, and of 256 from 768 on.
    """
    total = decodes + prompt_tokens
    tile = _TILE if decodes >= _PADDED else 2 * _TILE if total < 768 else 4 * _TILE
    tokens = total // tile * tile - decodes
    return tokens if tokens >= _FEWEST else prompt_tokens
