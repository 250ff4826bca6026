"""How long a sequence the model's positions allow."""

from __future__ import annotations

from octavo_engine.errors import ConfigError
from octavo_engine.runner.architecture import DecoderConfig

_STRETCHED = ("linear", "dynamic")  # their max_position_embeddings counts the unscaled positions


def model_length(config: DecoderConfig, wanted: int | None) -> int:
    """``max_model_len`` in tokens: ``wanted``, or where that is None the model's own.

    Errors: :class:`ConfigError` when ``wanted`` is beyond what the rotary embedding reaches.
    """
    longest = _longest(config)
    if wanted is not None and wanted > longest:
        raise ConfigError(
            f"--max-model-len is {wanted}, but this model's positions end at {longest}; "
            f"lower it to {longest} or leave it out."
        )
    default = config.max_positions
    if config.rope.scaling == "linear":
        default = int(default * config.rope.parameters.get("factor", 1))
    return wanted or min(default, longest)


def _longest(config: DecoderConfig) -> int:
    factor = float(config.rope.parameters.get("factor") or 1)
    if config.rope.scaling in _STRETCHED:
        return int(config.max_positions * factor)
    if config.rope.scaling == "yarn":
        trained = config.rope.parameters.get("original_max_position_embeddings")
        return max(config.max_positions, int((trained or config.max_positions) * factor))
    return config.max_positions
