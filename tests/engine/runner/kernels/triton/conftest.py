"""Where the kernels run: on the GPU when there is one, else in Triton's interpreter on the CPU."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined, so before triton is imported


FOLDERS = (Path(__file__).parent, Path(__file__).parents[2] / "device")


@pytest.fixture(autouse=True, scope="session")
def interpreted_loop_bounds() -> Iterator[None]:
    """The interpreter holds scalars in arrays of one element, which numpy 2.4 makes no loop bounds of."""
    from triton.runtime import interpreter

    original = interpreter._LangPatchScope.set_attr

    def set_attr(scope: object, target: object, name: str, value: object) -> None:
        original(scope, target, name, (lambda x: int(x.handle.data.item())) if name == "__index__" else value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter._LangPatchScope, "set_attr", set_attr)
        yield


@pytest.fixture(autouse=True, scope="session")
def interpreted_fp8_rounding() -> Iterator[None]:
    """The interpreter drops the carry where rounding to FP8 reaches the next power of two; a GPU does not,
    and makes of what is too large the largest number."""
    import triton.language as tl
    from triton.runtime import interpreter

    original = interpreter._convert_float

    def convert(values: np.ndarray, source: object, target: object, rounding: object) -> np.ndarray:
        if source != tl.float32 or target != tl.float8e4nv:
            return original(values, source, target, rounding)
        wide = torch.from_numpy(np.ascontiguousarray(values).view(np.float32)).clamp(-448, 448)
        return wide.to(torch.float8_e4m3fn).view(torch.uint8).numpy().reshape(values.shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_convert_float", convert)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(folder in item.path.parents for folder in FOLDERS):
            item.add_marker(pytest.mark.kernels)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
