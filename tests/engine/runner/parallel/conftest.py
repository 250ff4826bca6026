from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.runner.parallel.warm_ranks import WarmRanks
from tests.engine.runner.tiny_models import save
from tests.engine.server.tiny_model import VOCAB_SIZE, tiny_tokenizer


@pytest.fixture(scope="session")
def warm_ranks() -> Iterator[WarmRanks]:
    ranks = WarmRanks(3)
    yield ranks
    ranks.close()


@pytest.fixture
def served_folder(tmp_path: Path) -> Path:
    """A tiny model with a tokenizer."""
    save("llama3", tmp_path, vocab_size=VOCAB_SIZE)
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path
