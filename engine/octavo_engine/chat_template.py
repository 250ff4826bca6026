"""Chat templates: the Jinja dialect that model authors write, in a sandbox that can reach nothing."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from octavo_engine.errors import ModelError, RequestError

Message = dict[str, Any]
_RESERVED = {"messages", "tools", "add_generation_prompt"}


class _GenerationBlocks(jinja2.ext.Extension):
    """``{% generation %}`` marks a model's own words for training; when serving, only its body counts."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own interface)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A model's template, compiled once. Safe to render from several threads.

    Errors: :class:`ModelError` when the template cannot be compiled.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self._special_tokens = special_tokens
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"The model's chat template cannot be read: {error}.") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text. ``variables``: what else the template may ask for, under any name.

        Errors: :class:`RequestError` when the template refuses the messages.
        """
        variables = variables or {}
        reserved = _RESERVED & set(variables)
        if reserved:
            raise RequestError(
                f"chat_template_kwargs must not set {', '.join(sorted(reserved))}.",
                param="chat_template_kwargs",
            )
        known = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
        try:
            # not as keywords: a variable may be called self
            return self._template.render({**self._special_tokens, **variables, **known})
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            raise RequestError(
                f"The model's chat template does not accept these messages: {str(error).rstrip('.')}.",
                param="messages",
            ) from error


def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)  # not HTML-safe: this is no HTML


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().astimezone().strftime(layout)
