"""Text to token ids and back, from a model's own files; loads neither torch nor transformers."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from octavo_engine.chat_template import ChatTemplate, Message
from octavo_engine.errors import ModelError, RequestError
from octavo_engine.gguf_header import read_gguf_header
from octavo_engine.gguf_tokenizer import tokenizer_from_gguf
from octavo_engine.model_source import resolve
from octavo_engine.token_length import token_length

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


class Tokenizer:
    """One model's tokenizer. Thread-safe; encoding releases the interpreter's lock."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_token_ids: Sequence[int] = (),
        special_tokens: dict[str, str] | None = None,
        chat_template: str | None = None,
    ) -> None:
        self._backend = backend
        self._special_tokens = special_tokens or {}
        self._chat = ChatTemplate(chat_template, self._special_tokens) if chat_template else None
        self.eos_token_ids = list(eos_token_ids)
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self._token_length = token_length(backend)

    def with_chat_template(self, source: str) -> Tokenizer:
        """The same tokenizer with another chat template."""
        other = copy.copy(self)
        other._chat = ChatTemplate(source, self._special_tokens)
        return other

    def fewest_tokens(self, text: str) -> int:
        """Tokens that ``text`` has at least, told without tokenizing it; 0 when that cannot be told."""
        return self._token_length.fewest_tokens(text) if self._token_length else 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Ids the vocabulary does not have are left out; bytes that are no UTF-8 become U+FFFD."""
        text: str = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def token(self, token_id: int) -> str:
        """The vocabulary's own spelling of a token; empty for an id beyond the vocabulary."""
        return self._backend.id_to_token(token_id) or ""

    def render_chat(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation as the model was taught to read it; its template may use ``variables``.

        Errors: :class:`RequestError` when the model has no template or the template refuses the messages.
        """
        if self._chat is None:
            raise RequestError(
                "This model has no chat template, so it cannot chat; ask /v1/completions instead, "
                "or start the server with --chat-template FILE.",
                param="messages",
            )
        return self._chat.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, variables=variables
        )

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        /,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """The token ids of a conversation; errors as :meth:`render_chat`."""
        text = self.render_chat(messages, tools, add_generation_prompt, variables)
        return self.encode(text, add_special_tokens=False)


def load_tokenizer(source: str) -> Tokenizer:
    """The tokenizer of a model source: a folder, a GGUF file, or ``package://NAME[/FILE]``.

    Errors: :class:`octavo_engine.errors.ModelNotFound`, :class:`ModelError`.
    """
    if Path(source, "tokenizer.json").is_file():  # a folder with nothing but a tokenizer will do
        return _from_folder(Path(source))
    files = resolve(source)
    return _from_gguf(files.gguf) if files.gguf else _from_folder(files.folder)


def _from_gguf(path: Path) -> Tokenizer:
    metadata = read_gguf_header(path)
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens", [])
    if not tokens:
        raise ModelError(f"{path} holds no tokenizer: tokenizer.ggml.tokens is missing.")
    named = {name: metadata.get(f"tokenizer.ggml.{name}_id") for name in (*_SPECIAL, "eot_token")}
    ids: dict[str, int] = {name: index for name, index in named.items() if index is not None}
    return Tokenizer(
        tokenizer_from_gguf(metadata, str(path)),
        eos_token_ids=sorted({ids[name] for name in ("eos_token", "eot_token") if name in ids}),
        special_tokens={name: tokens[index] for name, index in ids.items()},
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def _from_folder(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.exists():
        raise ModelError(f"{folder} has no tokenizer.json; name a folder that has one with --tokenizer.")
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers package raises nothing narrower
        raise ModelError(f"{file} cannot be read: {error}.") from error
    settings = _read_json(folder / "tokenizer_config.json")
    special = {name: _content(settings[name]) for name in _SPECIAL if settings.get(name)}
    return Tokenizer(
        backend,
        eos_token_ids=_eos_token_ids(folder, backend, special),
        special_tokens=special,
        chat_template=_chat_template(folder, settings),
    )


def _eos_token_ids(folder: Path, backend: tokenizers.Tokenizer, special: dict[str, str]) -> list[int]:
    for name in ("generation_config.json", "config.json"):
        found: int | list[int] | None = _read_json(folder / name).get("eos_token_id")
        if found is not None:
            return sorted([found] if isinstance(found, int) else set(found))
    index = backend.token_to_id(special.get("eos_token", ""))
    return [] if index is None else [index]


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):  # several named templates
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found if isinstance(found, str) else None


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _read_json(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}.") from error
    return found
