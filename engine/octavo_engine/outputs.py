"""What the offline API returns (fields as in vLLM's classes of the same names), and how it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from octavo_engine.detokenizer import Decoder, IncrementalDetokenizer
from octavo_engine.messages import SequenceOutput, TokenLogprobs
from octavo_engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Logprob:
    """``rank``: 1 is the most likely token of the vocabulary."""

    logprob: float
    rank: int
    decoded_token: str


@dataclass(slots=True)
class CompletionOutput:
    """One answer. ``stop_reason``: the stop string or stop id that ended it; None for eos and length."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestOutput:
    """One prompt and its ``n`` answers. ``prompt`` is None when token ids were given."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    num_cached_tokens: int = 0

    @property
    def finished(self) -> bool:
        return all(output.finished for output in self.outputs)


class AnswerBuilder:
    """Gathers one request's outputs; ``result`` is complete when it is finished."""

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int],
        params: SamplingParams,
        tokenizer: Decoder,
    ) -> None:
        self._params = params
        self._tokenizer = tokenizer
        self._texts = [IncrementalDetokenizer(tokenizer, params, prompt_token_ids) for _ in range(params.n)]
        answers = [CompletionOutput(index) for index in range(params.n)]
        if params.logprobs is not None:
            for answer in answers:
                answer.cumulative_logprob, answer.logprobs = 0.0, []
        self.result = RequestOutput(request_id, prompt, prompt_token_ids, answers)

    def take(self, output: SequenceOutput) -> bool:
        """Add new tokens; True when a stop string ended the answer, so that the engine must be told."""
        answer, text = self.result.outputs[output.index], self._texts[output.index]
        if answer.finished:
            return False
        self.result.num_cached_tokens = output.num_cached_tokens
        answer.token_ids += output.token_ids
        self._take_logprobs(answer, output)
        text.push(output.token_ids, output.stop_token_id)
        if output.finish_reason is not None:
            text.finish()
            answer.finish_reason = output.finish_reason
            if output.stop_token_id in self._params.stop_token_ids:
                answer.stop_reason = output.stop_token_id
        if text.stopped_by is not None:
            answer.finish_reason, answer.stop_reason = "stop", text.stopped_by
        if answer.finished:
            answer.text = text.text
        return text.stopped_by is not None and output.finish_reason is None

    def _take_logprobs(self, answer: CompletionOutput, output: SequenceOutput) -> None:
        if output.prompt_logprobs is not None:
            self.result.prompt_logprobs = [
                None if entry is None else self._by_token(entry) for entry in output.prompt_logprobs
            ]
        if answer.logprobs is not None and output.logprobs is not None:
            answer.logprobs += map(self._by_token, output.logprobs)
            chosen = sum(entry.logprobs[0] for entry in output.logprobs)
            answer.cumulative_logprob = (answer.cumulative_logprob or 0.0) + chosen

    def _by_token(self, entry: TokenLogprobs) -> dict[int, Logprob]:
        """The chosen token, then the most likely ones in order."""
        ranks: Sequence[int] = [entry.rank, *range(1, len(entry.token_ids))]
        found: dict[int, Logprob] = {}
        for token_id, logprob, rank in zip(entry.token_ids, entry.logprobs, ranks, strict=True):
            decoded = self._tokenizer.decode([token_id], skip_special_tokens=False)
            found.setdefault(token_id, Logprob(logprob, rank, decoded))
        return found
