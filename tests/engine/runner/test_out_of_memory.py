"""What is said when memory does not last: which setting to change, and to what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from tests.engine.runner.tiny_models import save

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig
from octavo_engine.errors import OutOfMemory
from octavo_engine.runner import memory, out_of_memory
from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.kv_cache import CacheShape
from octavo_engine.runner.model_runner import ModelRunner

GIB = 1 << 30
LLAMA_8B = DecoderConfig("LlamaForCausalLM", 128256, 4096, 14336, 32, 32, 8, 128, 1e-5, 131072)
CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("needed", "dtype", "gpus", "fp8", "words"),
    [
        (60, torch.float32, 1, 50, "60.00 GiB on each GPU and 40.00 GiB of memory is free; use --dtype b"),
        (60, torch.float32, 1, 50, "raise --tensor-parallel-size to 2, or choose a smaller model"),
        (60, torch.bfloat16, 1, 33, "free; use --quantization fp8, raise --tensor-parallel-size to 2, or"),
        (60, torch.bfloat16, 1, None, "free; raise --tensor-parallel-size to 2, or"),
        (100, torch.bfloat16, 2, 55, "free; raise --tensor-parallel-size to 8,"),
        (2000, torch.bfloat16, 1, 1005, "free; choose a smaller model."),
        (41, torch.bfloat16, None, 25, "free; raise the memory limit by 2.00 GiB, or choose a smaller model"),
    ],
)
def test_weights(needed: int, dtype: torch.dtype, gpus: int | None, fp8: int | None, words: str) -> None:
    narrower = None if fp8 is None else fp8 * GIB
    assert words in out_of_memory.of_weights(needed * GIB, 40 * GIB, LLAMA_8B, dtype, gpus, narrower)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """A GPU of this many GiB, so much of it free."""

    def measured(total: float, free: float) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * GIB), int(total * GIB)))

    return measured


def blocks(config: EngineConfig, length: int, activations: float = 0) -> tuple[int, int]:
    shape = CacheShape(32, 16, 8, 128, torch.bfloat16)  # 2 MiB a block
    return memory.blocks_that_fit(config, shape, length, CUDA, int(activations * GIB))


def configured(length: int | None = None, **cache: object) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(max_model_len=length),
        cache=CacheConfig(**cache),  # type: ignore[arg-type]
    )


def test_a_length_that_the_gpu_cannot_hold_names_three_ways(gpu: Callable[..., None]) -> None:
    gpu(80, 20)
    with pytest.raises(OutOfMemory) as refusal:
        blocks(configured(length=100_000), 100_000, activations=2)
    assert "one sequence of 100000 tokens needs 12.21 GiB and 10.00 GiB are there" in str(refusal.value)
    assert "81904, use --kv-cache-dtype fp8, raise --gpu-memory-utilization to 0.93" in str(refusal.value)


def test_what_it_names_is_enough(gpu: Callable[..., None]) -> None:
    gpu(80, 20)
    assert blocks(configured(length=81_904), 81_904, activations=2)[0] * 16 >= 81_904
    enough = configured(length=100_000, gpu_memory_utilization=0.93)
    assert blocks(enough, 100_000, activations=2)[0] * 16 >= 100_000


def test_steps_that_leave_nothing_name_smaller_ones(gpu: Callable[..., None]) -> None:
    gpu(24, 6)
    with pytest.raises(OutOfMemory) as refusal:
        blocks(configured(gpu_memory_utilization=0.95), 8192, activations=5)
    assert "and 0 bytes are there" in str(refusal.value)
    assert "--max-model-len" not in str(refusal.value)
    assert "lower --max-num-batched-tokens to 1536, or choose a smaller model" in str(refusal.value)


def test_more_blocks_than_there_is_room_for(gpu: Callable[..., None]) -> None:
    gpu(24, 10)
    words = "--num-gpu-blocks-override 6000 needs 11.72 GiB and 10.00 GiB are free; lower it to 4608"
    with pytest.raises(OutOfMemory, match=words):
        blocks(configured(num_blocks=6000), 100)
    assert blocks(configured(num_blocks=4608), 100) == (4608, 0)


def test_more_swap_space_than_the_host_has(monkeypatch: pytest.MonkeyPatch, gpu: Callable[..., None]) -> None:
    gpu(80, 60)
    monkeypatch.setattr(memory, "free_memory", lambda: 10 * GIB)
    with pytest.raises(OutOfMemory, match=r"--swap-space 16 is more than .* 10.00 GiB; lower it to 8"):
        blocks(configured(swap_space_bytes=16 * GIB), 100)


def runner(folder: Path) -> ModelRunner:
    return ModelRunner(EngineConfig(model=ModelConfig(source=str(folder), device="cpu", dtype="float32")))


def test_weights_are_refused_before_a_byte_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    with pytest.raises(
        OutOfMemory, match=r"^The weights need .* raise the memory limit by 1.00 GiB, or choose"
    ):
        runner(save("llama3", tmp_path)).load()


CUDA_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU_ERROR = RuntimeError(
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
)


@pytest.mark.parametrize("error", [CUDA_ERROR, CPU_ERROR, MemoryError()], ids=["CUDA", "CPU", "Python"])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("_load_model", "^The weights need .* or choose a smaller model"),
        ("_activation_bytes", "lower --max-num-batched-tokens to 1024, and then --max-num-seqs to 128"),
        ("_make_steps", "lower --kv-cache-memory-bytes to 536870912, or --max-num-seqs to 128"),
    ],
)
def test_an_allocation_that_fails_is_one_sentence(
    place: str, words: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ModelRunner, place, fail)
    starting = runner(save("llama3", tmp_path))
    with pytest.raises(OutOfMemory, match=words):
        starting.load()
        starting.profile_blocks()
        starting.allocate(10, 0)


def test_another_fault_of_torch_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="illegal"), out_of_memory.explained(lambda: "too large"):
        raise RuntimeError("an illegal memory access was encountered")


def test_a_gpu_that_runs_short_at_work_names_what_it_measured_with() -> None:
    config = configured()
    assert "lower --gpu-memory-utilization to 0.85, or --max-num-seqs to 128" in out_of_memory.of_allocation(
        config, gpu=True
    )
    asked = msgspec.structs.replace(config, cache=CacheConfig(num_blocks=500))
    assert "lower --num-gpu-blocks-override to 250" in out_of_memory.of_allocation(asked, gpu=True)
