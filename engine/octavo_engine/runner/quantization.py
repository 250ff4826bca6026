"""Which products are computed in FP8, and where their scales come from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from octavo_engine.errors import ConfigError

AT_LOAD = ("fp8", "fp8_per_tensor")
"""Ways of quantizing weights while they are loaded."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """FP8 (e4m3) weights and activations.

    ``method`` is what users and checkpoints call it. ``stored``: the checkpoint's weights are in FP8.
    ``per_tensor``: weights quantized at load get one scale each, not one a row. ``static``: activations are
    scaled by a number of the checkpoint, not token by token. ``spared`` modules stay in the model's dtype:
    names or parts of names between dots, or ``re:`` and a pattern.
    """

    method: str
    stored: bool = False
    per_tensor: bool = False
    static: bool = False
    spared: tuple[str, ...] = ()

    def spares(self, module: str) -> bool:
        return any(_matches(entry, module) for entry in self.spared)


def choose_quantization(asked: str | None, found: Quantization | None) -> Quantization | None:
    """What ``--quantization`` asks for, beside what the checkpoint is. Raises :class:`ConfigError`."""
    if asked is None or (found is not None and asked in {found.method, "fp8"}):
        return found
    if found is not None:
        raise ConfigError(
            f"--quantization {asked} does not fit the checkpoint, whose weights are quantized by "
            f"{found.method}; leave it out."
        )
    if asked not in AT_LOAD:
        raise ConfigError(
            f"--quantization {asked} is for a checkpoint quantized so, and this one is not quantized; "
            f"use {' or '.join(AT_LOAD)} to quantize it at load."
        )
    return Quantization(asked, per_tensor=asked == "fp8_per_tensor")


def _matches(entry: str, module: str) -> bool:
    if entry.startswith("re:"):
        return re.match(entry[3:], module) is not None
    return f".{entry}." in f".{module}."
