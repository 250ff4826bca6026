"""Which files of a repository are taken: weights as safetensors or GGUF, and what tokenizes. Pure.

Pickled weights (.bin, .pt, .pth) and code are never taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from octavo_engine.errors import ModelNotFound
from octavo_engine.sources.repository import RemoteFile

_TAKEN = re.compile(
    r"""[^/]+\.safetensors | [^/]+\.safetensors\.index\.json
      | (config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab
        |chat_template|preprocessor_config|video_preprocessor_config|processor_config
        |quantize_config|quantization_config|hf_quant_config)\.json
      | tokenizer\.model | merges\.txt | vocab\.txt | [^/]+\.tiktoken
      | chat_template\.jinja | additional_chat_templates/[^/]+\.jinja""",
    re.VERBOSE,
)
_CONSOLIDATED = re.compile(r"consolidated.*\.safetensors(\.index\.json)?")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_SHOWN = 6


def is_taken(path: str) -> bool:
    """By the path below the model's folder."""
    return _TAKEN.fullmatch(path) is not None or ("/" not in path and is_gguf(path))


def may_be_taken(path: str) -> bool:
    """Whether ``path`` is taken in some folder above it."""
    parts = path.split("/")
    return is_taken(parts[-1]) or is_taken("/".join(parts[-2:]))


def is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def wanted(files: Iterable[RemoteFile], path: str, source: str) -> list[RemoteFile]:
    """The files that make the model at ``path`` (a folder or a .gguf file; empty: the root), placed below it.

    Archives are taken whole, with the files beside them where they are: what is in them shows when they are
    unpacked (unpack.py). Errors: :class:`ModelNotFound` saying what is there instead.
    """
    every = list(files)
    if any(file.unpack for file in every):
        return [file for file in every if file.unpack or may_be_taken(file.path)]
    if is_gguf(path):
        found = [replace(file, path=path.rpartition("/")[2]) for file in every if file.path == path]
        if not found:
            raise ModelNotFound(f"{source} holds no file {path}; {_listing(every)}.")
        return found
    prefix = f"{path}/" if path else ""
    inside = [replace(f, path=f.path.removeprefix(prefix)) for f in every if f.path.startswith(prefix)]
    return _of_folder(inside, source)


def _of_folder(inside: Sequence[RemoteFile], source: str) -> list[RemoteFile]:
    names = {file.path for file in inside}
    weights = [n for n in names if n.endswith(".safetensors") and "/" not in n]
    if "config.json" in names and weights:
        doubled = any(not _CONSOLIDATED.fullmatch(name) for name in weights)
        return [f for f in inside if is_taken(f.path) and not is_gguf(f.path) and not _left_out(f, doubled)]
    ggufs = [file for file in inside if is_gguf(file.path) and "/" not in file.path]
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        listed = ", ".join(sorted(file.path for file in ggufs)[:_SHOWN])
        raise ModelNotFound(f"{source} holds several GGUF files ({listed}); add #FILE to choose one.")
    raise ModelNotFound(f"{source} holds no model that can be taken: {_missing(names)}.")


def _left_out(file: RemoteFile, doubled: bool) -> bool:
    """Some repositories hold the weights twice, in the maker's own layout as well."""
    return doubled and _CONSOLIDATED.fullmatch(file.path) is not None


def _missing(names: set[str]) -> str:
    if pickled := sorted(name for name in names if name.endswith(_PICKLED)):
        shown = ", ".join(pickled[:2])
        return f"its weights are pickled ({shown}), which is never loaded; name a revision with safetensors"
    return f"it has neither config.json with safetensors nor a GGUF file, {_named(names)}"


def _listing(files: Sequence[RemoteFile]) -> str:
    ggufs = {file.path for file in files if is_gguf(file.path)}
    return _named(ggufs or {file.path for file in files})


def _named(names: set[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    return f"it holds {', '.join(shown)}{' ...' if len(names) > _SHOWN else ''}" if shown else "it is empty"
