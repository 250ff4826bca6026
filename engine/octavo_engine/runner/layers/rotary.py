"""Tables of the rotary position embedding, with the scaling types that transformers' configs name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from octavo_engine.errors import ModelError
from octavo_engine.runner.architecture import DecoderConfig, RopeConfig


class RotaryTable:
    """cos and sin [positions, 1, head_dim / 2], float32, for positions below ``max_len``."""

    def __init__(self, config: DecoderConfig, max_len: int, device: torch.device) -> None:
        frequencies, magnitude = inverse_frequencies(config, max_len)
        angles = torch.outer(torch.arange(max_len, dtype=torch.float32), frequencies)[:, None, :]
        self._cos = (angles.cos() * magnitude).to(device)
        self._sin = (angles.sin() * magnitude).to(device)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self._cos[positions], self._sin[positions]


def inverse_frequencies(config: DecoderConfig, max_len: int) -> tuple[Tensor, float]:
    """(inverse frequencies [head_dim / 2], factor on cos and sin) for positions below ``max_len``."""
    scale = _SCALINGS.get(config.rope.scaling)
    if scale is None:
        raise ModelError(
            f"The model's rope scaling type {config.rope.scaling!r} is not known; known are "
            f"{', '.join(sorted(_SCALINGS))}."
        )
    try:
        return scale(config, max_len)
    except KeyError as missing:
        raise ModelError(
            f"The model's rope scaling {config.rope.scaling!r} lacks the setting {missing} in its config."
        ) from None


def _plain(theta: float, dim: int) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def _default(config: DecoderConfig, max_len: int) -> tuple[Tensor, float]:
    return _plain(config.rope.theta, config.head_dim), 1.0


def _linear(config: DecoderConfig, max_len: int) -> tuple[Tensor, float]:
    """Position interpolation (Chen et al. 2023)."""
    return _plain(config.rope.theta, config.head_dim) / config.rope.parameters["factor"], 1.0


def _dynamic(config: DecoderConfig, max_len: int) -> tuple[Tensor, float]:
    """NTK-aware scaling for the longest length served: one base for all positions, as cached keys need."""
    factor, trained, dim = config.rope.parameters["factor"], config.max_positions, config.head_dim
    length = max(max_len, trained)
    base = config.rope.theta * ((factor * length / trained) - (factor - 1)) ** (dim / (dim - 2))
    return _plain(base, dim), 1.0


def _llama3(config: DecoderConfig, max_len: int) -> tuple[Tensor, float]:
    """Llama 3.1: long wavelengths are divided by the factor, short ones kept, with a ramp between."""
    settings = config.rope.parameters
    factor, low, high = settings["factor"], settings["low_freq_factor"], settings["high_freq_factor"]
    trained = settings["original_max_position_embeddings"]
    plain = _plain(config.rope.theta, config.head_dim)
    turns = trained * plain / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * plain + (1 - kept) * plain / factor, 1.0


def _yarn(config: DecoderConfig, max_len: int) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023): interpolate by wavelength, and scale attention by a factor on cos and sin."""
    rope, dim = config.rope, config.head_dim
    factor = rope.parameters["factor"]
    trained = rope.parameters.get("original_max_position_embeddings") or config.max_positions
    low = _yarn_dimension(rope, "beta_fast", 32.0, dim, trained)
    high = _yarn_dimension(rope, "beta_slow", 1.0, dim, trained)
    if rope.parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    kept = 1 - ramp.clamp(0, 1)
    plain = _plain(rope.theta, dim)
    return kept * plain + (1 - kept) * plain / factor, _yarn_magnitude(rope, factor)


def _yarn_dimension(rope: RopeConfig, name: str, default: float, dim: int, trained: int) -> float:
    """The (fractional) dimension that turns ``name`` times over the trained positions."""
    turns = rope.parameters.get(name) or default
    return dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))


def _yarn_magnitude(rope: RopeConfig, factor: float) -> float:
    given = rope.parameters.get("attention_factor")
    if given is not None:
        return float(given)
    whole, part = rope.parameters.get("mscale"), rope.parameters.get("mscale_all_dim")
    if whole and part:
        return _mscale(factor, whole) / _mscale(factor, part)
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _factors(config: DecoderConfig, max_len: int) -> tuple[Tensor, float]:
    divisors = torch.tensor(config.rope.parameters["factors"], dtype=torch.float32)
    return _plain(config.rope.theta, config.head_dim) / divisors, 1.0


_SCALINGS: dict[str, Callable[[DecoderConfig, int], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "factors": _factors,
}
