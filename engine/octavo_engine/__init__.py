"""The Octavo engine: a PagedAttention inference server for language models.

``from octavo_engine import LLM, SamplingParams``: names are loaded when first used, so that importing a pure
module loads neither torch nor a tokenizer.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo_engine.llm import LLM, CompletionOutput, RequestOutput
    from octavo_engine.sampling_params import SamplingParams

__all__ = ["LLM", "CompletionOutput", "RequestOutput", "SamplingParams"]

_HOMES = {
    "LLM": "octavo_engine.llm",
    "CompletionOutput": "octavo_engine.llm",
    "RequestOutput": "octavo_engine.llm",
    "SamplingParams": "octavo_engine.sampling_params",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
