"""Where the kernels run: as in the kernels' own tests."""

from tests.engine.runner.kernels.triton.conftest import (
    device,
    interpreted_fp8_rounding,
    interpreted_loop_bounds,
    pytest_collection_modifyitems,
    seeded,
)

__all__ = [
    "device",
    "interpreted_fp8_rounding",
    "interpreted_loop_bounds",
    "pytest_collection_modifyitems",
    "seeded",
]
