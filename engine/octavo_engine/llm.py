"""The offline API: many prompts in, their answers out, in this process.

from octavo_engine import LLM, SamplingParams
outputs = LLM(model="/models/smollm2").generate(["A book is"], SamplingParams(max_tokens=32))
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from itertools import count
from operator import index
from typing import Any, TypedDict, TypeVar, cast

import msgspec
from tqdm import tqdm

from octavo_engine.cli.flags import Parser, add_engine_flags, engine_config, refuse_unbuilt, refuse_unknown
from octavo_engine.config import EMBEDDED_MODEL, EngineConfig
from octavo_engine.engine import EngineCore
from octavo_engine.errors import EngineError, RequestError
from octavo_engine.messages import AddRequest, Runner
from octavo_engine.outputs import AnswerBuilder, CompletionOutput, Logprob, RequestOutput
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.tokenizer import Tokenizer, load_tokenizer
from octavo_engine.validation import check_prompt, check_sampling_params

__all__ = ["LLM", "CompletionOutput", "Logprob", "RequestOutput"]


class Prompt(TypedDict, total=False):
    """Either text or token ids; ``cache_salt`` keeps its cached prefix from other salts."""

    prompt: str
    prompt_token_ids: list[int]
    cache_salt: str


PromptInput = str | Prompt | Sequence[int]
Message = dict[str, Any]
_T = TypeVar("_T")


class LLM:
    """A model loaded into this process, call-compatible with vLLM's class of the same name.

    ``settings`` are the flags of ``octavo-engine serve`` with underscores: ``dtype``, ``max_model_len``,
    ``max_num_seqs``, ``enable_prefix_caching``, ... Errors: ConfigError, ModelError, OutOfMemory.
    """

    def __init__(
        self, model: str = EMBEDDED_MODEL, *, tokenizer: str | None = None, **settings: object
    ) -> None:
        from octavo_engine.runner.start import runner_for

        config = config_of(model, settings)
        self._open(config, runner_for(config), load_tokenizer(tokenizer or config.model.source))

    @classmethod
    def on(cls, runner: Runner, config: EngineConfig, tokenizer: Tokenizer) -> LLM:
        """An LLM on a runner of one's own, such as a fake one."""
        llm = cls.__new__(cls)
        llm._open(config, runner, tokenizer)
        return llm

    def _open(self, config: EngineConfig, runner: Runner, tokenizer: Tokenizer) -> None:
        unbounded = msgspec.structs.replace(config.scheduler, max_waiting=sys.maxsize)
        self._core = EngineCore(msgspec.structs.replace(config, scheduler=unbounded), runner)
        self._tokenizer = tokenizer
        self._request_ids = count()
        self._ready = self._core.start()

    def get_tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def generate(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Answer prompts, in their order; one set of parameters for all of them or one for each.

        A prompt is text, token ids, ``{"prompt": ...}`` or ``{"prompt_token_ids": [...]}``.
        Errors: RequestError, before anything runs, when a prompt or a parameter cannot be served.
        """
        parsed = [self._parse(prompt) for prompt in _as_list(prompts)]
        params = _one_each("sampling_params", sampling_params or SamplingParams(), len(parsed))
        priorities = _one_each("priority", 0 if priority is None else priority, len(parsed))
        requests = [self._request(*each) for each in zip(parsed, params, priorities, strict=True)]
        builders = {
            request.request_id: AnswerBuilder(
                request.request_id,
                prompt.get("prompt"),
                request.prompt_token_ids,
                request.params,
                self._tokenizer,
            )
            for prompt, request in zip(parsed, requests, strict=True)
        }
        self._run(requests, builders, show_progress=use_tqdm)
        return [builder.result for builder in builders.values()]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or several. Errors: as :meth:`generate`, and without a chat template."""
        tokenizer = self._tokenizer.with_chat_template(chat_template) if chat_template else self._tokenizer
        single = bool(messages) and isinstance(messages[0], Mapping)
        conversations = cast("Sequence[Sequence[Message]]", [messages] if single else messages)
        prompts: list[Prompt] = []
        for conversation in conversations:
            text = tokenizer.render_chat(conversation, tools, add_generation_prompt, chat_template_kwargs)
            ids = tokenizer.encode(text, add_special_tokens=False)
            prompts.append({"prompt": text, "prompt_token_ids": ids})
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def shutdown(self) -> None:
        """Let go of the model and its memory."""
        self._core.shutdown()

    def _parse(self, prompt: PromptInput) -> Prompt:
        if isinstance(prompt, str):
            return {"prompt": prompt, "prompt_token_ids": self._tokenizer.encode(prompt)}
        if not isinstance(prompt, Mapping):
            return {"prompt_token_ids": _token_ids(prompt)}
        _check_texts(prompt)
        if "prompt_token_ids" not in prompt and "prompt" not in prompt:
            keys = ", ".join(prompt) or "nothing"
            raise RequestError(f"A prompt has {keys}; give it prompt or prompt_token_ids.", param="prompt")
        if "prompt_token_ids" in prompt:
            return {**prompt, "prompt_token_ids": _token_ids(prompt["prompt_token_ids"])}
        return {**prompt, "prompt_token_ids": self._tokenizer.encode(prompt["prompt"])}

    def _request(self, prompt: Prompt, params: SamplingParams, priority: int) -> AddRequest:
        params = _typed(params)
        check_sampling_params(params, self._ready.vocab_size)
        token_ids = prompt["prompt_token_ids"]
        check_prompt(token_ids, max_model_len=self._ready.max_model_len, vocab_size=self._ready.vocab_size)
        name = str(next(self._request_ids))
        return AddRequest(name, token_ids, params, time.time(), priority, prompt.get("cache_salt", ""))

    def _run(
        self, requests: list[AddRequest], builders: dict[str, AnswerBuilder], *, show_progress: bool
    ) -> None:
        for request in requests:
            self._core.add(request)
        progress = _Progress(len(requests), show_progress)
        try:
            while self._core.has_work():
                self._step(builders, progress)
        finally:  # an error or ctrl-C leaves the engine usable for the next call
            self._core.abort(builders)
            progress.close()

    def _step(self, builders: dict[str, AnswerBuilder], progress: _Progress) -> None:
        for output in self._core.step().outputs:
            if output.error is not None:
                raise _error(output.error, output.error_status)
            builder = builders.get(output.request_id)
            if builder is None:
                continue
            if builder.take(output):
                self._core.abort([], [(output.request_id, output.index)])
            if builder.result.finished:
                progress.finished(builder.result)


class _Progress:
    """A bar over finished prompts that also says how fast tokens go in and come out."""

    def __init__(self, total: int, shown: bool) -> None:
        self._bar = tqdm(total=total, desc="Processed prompts", unit="prompt", disable=not shown)
        self._began = time.monotonic()
        self._input = self._output = 0

    def finished(self, result: RequestOutput) -> None:
        self._input += len(result.prompt_token_ids)
        self._output += sum(len(output.token_ids) for output in result.outputs)
        elapsed = max(1e-9, time.monotonic() - self._began)
        self._bar.set_postfix_str(
            f"input {self._input / elapsed:.0f} tok/s, output {self._output / elapsed:.0f} tok/s",
            refresh=False,
        )
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def config_of(model: str, settings: Mapping[str, object]) -> EngineConfig:
    """The configuration that the flags of the same names describe; None and False leave a flag out.

    Errors: ConfigError naming the flag.
    """
    parser = Parser(prog="LLM", allow_abbrev=False)
    add_engine_flags(parser)
    known = set(parser.flags())
    arguments = ["--model", model]
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        negation = "--no-" + flag[2:]
        if value is False and negation in known:
            arguments.append(negation)
        elif value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            arguments.append(f"{flag}={value}")
    refuse_unbuilt(arguments)
    parsed, unknown = parser.parse_known_args(arguments)
    refuse_unknown(parser, unknown)
    return engine_config(parsed)


def _as_list(prompts: PromptInput | Sequence[PromptInput]) -> list[PromptInput]:
    if not isinstance(prompts, str | Mapping | Sequence):
        raise RequestError(f"The prompts must be texts or token ids, not {prompts!r}.", param="prompt")
    single = isinstance(prompts, str | Mapping) or (bool(prompts) and isinstance(prompts[0], int))
    return [prompts] if single else list(prompts)  # type: ignore[list-item, arg-type]


def _one_each(name: str, given: _T | Sequence[_T], number: int) -> list[_T]:
    if not isinstance(given, Sequence):
        return [given] * number
    if len(given) != number:
        raise RequestError(
            f"{name} has {len(given)} entries for {number} prompts; give one for each.", param=name
        )
    return list(given)


def _error(sentence: str, status: int | None) -> EngineError:
    return EngineError(sentence) if status is None else RequestError(sentence, status=status)


def _token_ids(given: Sequence[int]) -> list[int]:
    """Also of numpy's integers."""
    try:
        return [index(token) for token in given]
    except TypeError as error:
        raise RequestError(f"The token ids of a prompt must be integers: {error}.", param="prompt") from error


def _check_texts(prompt: Prompt) -> None:
    for name in ("prompt", "cache_salt"):
        if not isinstance(prompt.get(name, ""), str):
            raise RequestError(f"{name} must be a text, not {prompt[name]!r}.", param=name)


def _typed(params: SamplingParams) -> SamplingParams:
    """With every field of its type; stops may be given as a string or a list."""
    try:
        stop = (params.stop,) if isinstance(params.stop, str) else tuple(params.stop or ())
        listed = msgspec.structs.replace(params, stop=stop, stop_token_ids=tuple(params.stop_token_ids or ()))
        return msgspec.convert(msgspec.to_builtins(listed), SamplingParams)
    except (TypeError, ValueError) as error:
        raise RequestError(f"The sampling parameters cannot be used: {error}.") from error
