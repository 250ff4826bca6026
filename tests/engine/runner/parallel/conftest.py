from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.engine.runner.parallel.warm_ranks import WarmRanks


@pytest.fixture(scope="session")
def warm_ranks() -> Iterator[WarmRanks]:
    ranks = WarmRanks(3)
    yield ranks
    ranks.close()
