"""The offline API on the fake runner, with a tokenizer whose words are numbers."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from tests.engine.simulation import VOCAB_SIZE, engine_config
from tokenizers import models, pre_tokenizers

import octavo_engine
from octavo_engine import LLM, SamplingParams
from octavo_engine.config import EMBEDDED_MODEL
from octavo_engine.errors import ConfigError, EngineError, RequestError
from octavo_engine.fake_runner import FakeRunner
from octavo_engine.llm import config_of
from octavo_engine.messages import StepInput, StepResult
from octavo_engine.tokenizer import Tokenizer

ENGINE = str(Path(octavo_engine.__file__).parents[1])
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


@pytest.fixture
def tokenizer() -> Tokenizer:
    words = {str(number): number for number in range(VOCAB_SIZE)}
    backend = tokenizers.Tokenizer(models.WordLevel(words, unk_token="0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend, eos_token_ids=[0], chat_template=TEMPLATE)


@pytest.fixture
def llm(tokenizer: Tokenizer) -> LLM:
    config = engine_config(max_waiting=1)
    return LLM.on(FakeRunner(config, vocab_size=VOCAB_SIZE, max_model_len=100), config, tokenizer)


def greedy(**params: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, ignore_eos=True, **params)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompts", "token_ids"),
    [
        pytest.param("1 2", [[1, 2]], id="a text"),
        pytest.param(["1 2", "3"], [[1, 2], [3]], id="texts"),
        pytest.param([4, 5], [[4, 5]], id="token ids"),
        pytest.param([[4, 5], [6]], [[4, 5], [6]], id="lists of token ids"),
        pytest.param({"prompt": "1 2"}, [[1, 2]], id="a dict with a text"),
        pytest.param({"prompt_token_ids": [7]}, [[7]], id="a dict with token ids"),
        pytest.param(["1", {"prompt_token_ids": [7]}], [[1], [7]], id="a mixture"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_prompts_may_be_given_as(llm: LLM, prompts: object, token_ids: list[list[int]]) -> None:
    outputs = llm.generate(prompts, greedy(max_tokens=3), use_tqdm=False)  # type: ignore[arg-type]
    assert [output.prompt_token_ids for output in outputs] == token_ids
    assert all(output.finished and len(output.outputs[0].token_ids) == 3 for output in outputs)


def test_answers_come_in_the_order_of_the_prompts_with_their_text(llm: LLM) -> None:
    params = [greedy(max_tokens=length) for length in (9, 1, 5)]
    outputs = llm.generate(["1", "2", "3"], params, use_tqdm=False)
    assert [output.prompt for output in outputs] == ["1", "2", "3"]
    assert [len(output.outputs[0].token_ids) for output in outputs] == [9, 1, 5]
    for output in outputs:
        answer = output.outputs[0]
        assert answer.text.split() == [str(token_id) for token_id in answer.token_ids]
        assert (answer.finish_reason, answer.stop_reason) == ("length", None)


def test_a_stop_string_ends_only_the_answer_that_meets_it(llm: LLM) -> None:
    sampling = SamplingParams(n=3, temperature=1.0, ignore_eos=True, max_tokens=20)
    free = llm.generate("1 2 3", sampling, use_tqdm=False)[0].outputs
    word = free[1].text.split()[4]
    stopped = llm.generate(
        "1 2 3",
        SamplingParams(n=3, temperature=1.0, ignore_eos=True, max_tokens=20, stop=f" {word} "),  # type: ignore[arg-type]
        use_tqdm=False,
    )[0].outputs
    assert (stopped[1].finish_reason, stopped[1].stop_reason) == ("stop", f" {word} ")
    for before, after in zip(free, stopped, strict=True):
        assert before.text.startswith(after.text)
        assert f" {word} " not in after.text


def test_a_stop_id_ends_the_answer_and_is_named(llm: LLM) -> None:
    third = llm.generate("5", greedy(max_tokens=5), use_tqdm=False)[0].outputs[0].token_ids[2]
    answer = llm.generate("5", greedy(max_tokens=5, stop_token_ids=[third]), use_tqdm=False)[0].outputs[0]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", third)
    assert answer.token_ids[-1] == third
    assert str(third) not in answer.text.split()


def test_logprobs_are_keyed_by_token_and_summed(llm: LLM) -> None:
    output = llm.generate("1 2 3", greedy(max_tokens=4, logprobs=1, prompt_logprobs=1), use_tqdm=False)[0]
    answer = output.outputs[0]
    assert answer.logprobs is not None
    assert [next(iter(entry)) for entry in answer.logprobs] == answer.token_ids
    assert answer.cumulative_logprob == sum(next(iter(entry.values())).logprob for entry in answer.logprobs)
    assert output.prompt_logprobs is not None
    assert [entry and list(entry) for entry in output.prompt_logprobs] == [None, [2], [3]]


def test_without_logprobs_there_is_no_cumulative_one(llm: LLM) -> None:
    answer = llm.generate("1", greedy(), use_tqdm=False)[0].outputs[0]
    assert (answer.logprobs, answer.cumulative_logprob) == (None, None)


def test_a_shared_prefix_is_reported(llm: LLM) -> None:
    llm.generate([[1] * 40], greedy(max_tokens=1), use_tqdm=False)
    assert llm.generate([[1] * 40], greedy(max_tokens=1), use_tqdm=False)[0].num_cached_tokens == 32


def test_chat_renders_the_model_s_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "1 2"}, {"role": "assistant", "content": "3"}]
    (one,) = llm.chat(messages, greedy(max_tokens=2), use_tqdm=False)
    several = llm.chat([messages, messages[:1]], greedy(max_tokens=2), use_tqdm=False)
    assert one.prompt_token_ids == [1, 2, 3]
    assert [output.prompt_token_ids for output in several] == [[1, 2, 3], [1, 2]]
    assert one.outputs[0].token_ids == several[0].outputs[0].token_ids


ILLEGAL: dict[str, tuple[object, dict[str, object], str]] = {
    "a prompt too long": ([[1] * 100], {}, "has 100 tokens"),
    "an empty prompt": ("", {}, "prompt is empty"),
    "no token": ({"prompt_token_ids": []}, {}, "prompt is empty"),
    "a dict without a prompt": ({"text": "1"}, {}, "has text; give it prompt"),
    "nothing": (None, {}, "must be texts or token ids, not None"),
    "a number for a text": ({"prompt": 3}, {}, "prompt must be a text, not 3"),
    "a number for a salt": ({"prompt": "1", "cache_salt": 3}, {}, "cache_salt must be a text, not 3"),
    "a word among token ids": ([1, "a"], {}, "must be integers"),
    "a fraction for a token id": ([1, 1.5], {}, "must be integers"),
    "a token id below 0": ([-1], {}, "token id -1"),
    "a token id beyond the vocabulary": ([VOCAB_SIZE], {}, "vocabulary ends at 49"),
    "a token id of 70 bits": ([2**70], {}, "vocabulary ends at 49"),
    "a temperature in words": ("1", {"temperature": "hot"}, "got `str` - at `\\$.temperature`"),
    "a temperature that is no number": ("1", {"temperature": math.nan}, "temperature must be"),
    "half an answer": ("1", {"n": 1.5}, "got `float` - at `\\$.n`"),
    "more answers than places": ("1", {"n": 9}, "n is 9"),
    "top_p above 1": ("1", {"top_p": 2.0}, "top_p must be"),
    "a top_k of 70 bits": ("1", {"top_k": 2**70}, "top_k must be"),
    "max_tokens of 70 bits": ("1", {"max_tokens": 2**70}, "max_tokens must be"),
    "a bias of a word": ("1", {"logit_bias": {"a": 1.0}}, "got `str` - at `key`"),
    "a bias that is no number": ("1", {"logit_bias": {1: math.nan}}, "not nan"),
    "a bias beyond the vocabulary": ("1", {"logit_bias": {50: 1.0}}, "vocabulary ends at 49"),
    "a stop that is no text": ("1", {"stop": [1]}, "got `int` - at `\\$.stop"),
    "a stop id beyond the vocabulary": ("1", {"stop_token_ids": [50]}, "vocabulary ends at 49"),
    "a penalty beyond reason": ("1", {"repetition_penalty": 1e-300}, "between 0.01 and 100"),
    "too many logprobs": ("1", {"logprobs": 1000}, "between 0 and 20"),
}


@pytest.mark.parametrize(("prompts", "params", "words"), ILLEGAL.values(), ids=ILLEGAL)
def test_an_illegal_request_is_refused_in_words_and_never_reaches_the_device(
    tokenizer: Tokenizer, prompts: object, params: dict[str, object], words: str
) -> None:
    class Untouched(FakeRunner):
        def launch(self, step: StepInput) -> None:
            raise AssertionError(f"{step} reached the device")

    config = engine_config()
    llm = LLM.on(Untouched(config, vocab_size=VOCAB_SIZE, max_model_len=100), config, tokenizer)
    with pytest.raises(RequestError, match=words):
        llm.generate(prompts, SamplingParams(**params), use_tqdm=False)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="reached the device"):
        llm.generate("1", use_tqdm=False)


def test_parameters_are_one_for_all_or_one_for_each(llm: LLM) -> None:
    with pytest.raises(RequestError, match="1 entries for 2 prompts"):
        llm.generate(["1", "2"], [SamplingParams()], use_tqdm=False)


def test_a_sequence_that_fails_is_an_error_and_the_engine_goes_on(tokenizer: Tokenizer) -> None:
    class Failing(FakeRunner):
        def collect(self) -> StepResult:
            result = super().collect()
            bad = {
                seq_id: "Its logits are not finite."
                for seq_id, row in self.rows.items()
                if row.token_ids[0] == 9
            }
            return StepResult(result.step_id, result.tokens, bad)

    config = engine_config()
    llm = LLM.on(Failing(config, vocab_size=VOCAB_SIZE, max_model_len=100), config, tokenizer)
    with pytest.raises(EngineError, match="not finite"):
        llm.generate(["1", "9"], greedy(), use_tqdm=False)
    assert llm.generate("1", greedy(), use_tqdm=False)[0].finished


def test_a_bar_shows_progress(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["1", "2"], greedy(max_tokens=2))
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "tok/s" in shown


def test_settings_are_the_server_s_flags() -> None:
    config = config_of(
        EMBEDDED_MODEL,
        {"max_model_len": 512, "enable_prefix_caching": False, "enforce_eager": True, "quantization": None},
    )
    assert config.model.max_model_len == 512
    assert config.cache.enable_prefix_caching is False


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"enable_lora": True}, "not built yet", id="known but not built"),
        pytest.param({"max_modle_len": 5}, "did you mean --max-model-len", id="misspelled"),
        pytest.param({"dtype": "int3"}, "int3", id="not among the choices"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_of(EMBEDDED_MODEL, settings)


def test_request_errors_name_the_parameter(llm: LLM) -> None:
    with pytest.raises(RequestError) as caught:
        llm.generate("1", SamplingParams(temperature=-1.0), use_tqdm=False)
    assert caught.value.param == "temperature"


@pytest.mark.parametrize(
    "statement",
    [
        "import octavo_engine",
        "import octavo_engine.scheduler, octavo_engine.engine, octavo_engine.fake_runner",
        "from octavo_engine import LLM, SamplingParams",
    ],
)
def test_importing_loads_no_torch(statement: str) -> None:
    check = f"import sys; {statement}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", check], check=False, env={"PYTHONPATH": ENGINE}).returncode == 0
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Llm'"):
        octavo_engine.Llm  # noqa: B018
