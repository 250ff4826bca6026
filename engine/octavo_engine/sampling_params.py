"""How a request's tokens are drawn: the parameters of the OpenAI API and the field's usual extensions."""

from __future__ import annotations

import msgspec


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Sampling parameters of one request, call-compatible with vLLM's class of the same name.

    ``temperature`` 0 is greedy. ``top_k`` 0 or -1 and ``top_p`` 1 switch the filters off. ``logprobs`` is the
    number of alternatives reported for each output token (0: the chosen token only, None: none).
    ``logit_bias`` maps token ids to a bias in logits. ``stop`` strings are matched by the detokenizer,
    ``stop_token_ids`` by the scheduler. Checked by :func:`octavo_engine.validation.check_sampling_params`.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    max_tokens: int | None = 16
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
