"""The runner of one rank: the model, its KV cache and a row per live sequence; carries out steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from octavo_engine.config import EngineConfig
from octavo_engine.errors import EngineError
from octavo_engine.messages import RunnerSpec, StepInput, StepResult
from octavo_engine.runner.forward import StepExecutor
from octavo_engine.runner.host import processors
from octavo_engine.runner.inputs import InputBuilder
from octavo_engine.runner.kernels.ops import operators
from octavo_engine.runner.kv_cache import KVCache
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.limits import model_length
from octavo_engine.runner.memory import blocks_that_fit, check_weights_fit, weights_do_not_fit
from octavo_engine.runner.models.registry import build_model
from octavo_engine.runner.out_of_memory import explained, of_allocation, of_steps
from octavo_engine.runner.parallel.group import SOLO, ParallelGroup
from octavo_engine.runner.parallel.pipe import Neighbour, Pipe
from octavo_engine.runner.parallel.pulse import Pulse
from octavo_engine.runner.parallel.topology import FIRST_OF_ONE, Place
from octavo_engine.runner.placement import check_fp8, choose_cache_dtype, choose_device, choose_dtype
from octavo_engine.runner.quantization import choose_quantization
from octavo_engine.runner.rows import RowTable
from octavo_engine.runner.sampler import Sampler
from octavo_engine.runner.shapes import cache_shape, head_shape
from octavo_engine.runner.threaded_steps import Steps, ThreadedSteps
from octavo_engine.runner.weights.checkpoint import Checkpoint, open_checkpoint
from octavo_engine.runner.weights.dummy import fill_randomly
from octavo_engine.runner.weights.loader import load_weights


@dataclass(frozen=True, slots=True)
class Seat:
    """Which rank a runner is: its ``place`` in the model, its GPU (index in this process), how many ranks
    share this node's processors, the ``group`` of those that share its layers, its neighbours in the stages
    before and after, and the ``pulse`` by which it is seen to move on."""

    place: Place = FIRST_OF_ONE
    device: int = 0
    neighbours: int = 1
    group: ParallelGroup = SOLO
    before: Neighbour | None = None
    after: Neighbour | None = None
    pulse: Pulse = field(default_factory=Pulse)


_ALONE = Seat()


class ModelRunner:
    """Fulfils :class:`octavo_engine.messages.Runner` for a model on this machine.

    On a CPU steps run one after another on a thread of their own; on a GPU they are queued on its stream.
    Either way the engine schedules the next step meanwhile.
    """

    def __init__(self, config: EngineConfig, seat: Seat = _ALONE) -> None:
        self._config = config
        self._seat = seat
        self._steps: Steps | None = None

    def load(self) -> RunnerSpec:
        """Read the weights. Raises ModelNotFound, ModelError, ConfigError or OutOfMemory."""
        torch.set_num_threads(max(1, processors() // self._seat.neighbours))
        checkpoint = open_checkpoint(self._config.model)
        self._model_config = checkpoint.config
        device = choose_device(self._config.model, self._seat.device)
        dtype = choose_dtype(self._config.model, checkpoint.config.dtype, device)
        plain = LayerContext(
            self._seat.group,
            dtype,
            device,
            quantization=choose_quantization(self._config.model.quantization, checkpoint.quantization),
            cache_dtype=choose_cache_dtype(self._config.cache, device),
            place=self._seat.place,
            pipeline_layers=self._config.parallel.pipeline_layers,
        )
        check_fp8(plain.quantization, device)
        self._heads = head_shape(checkpoint.config, plain)
        self._ctx = replace(plain, ops=operators(device, self._heads))
        self._max_model_len = model_length(checkpoint.config, self._config.model.max_model_len)
        self._shape = cache_shape(checkpoint.config, self._ctx, self._config.cache.block_size)
        check_weights_fit(checkpoint.config, self._ctx)
        with explained(lambda: weights_do_not_fit(checkpoint.config, self._ctx)):
            self._load_model(checkpoint)
        return RunnerSpec(
            checkpoint.config.vocab_size,
            self._max_model_len,
            list(checkpoint.config.eos_token_ids),
            self._shape.bytes_per_block,
            steps_in_flight=2 if self._on_gpu else 1,
        )

    def _load_model(self, checkpoint: Checkpoint) -> None:
        self._model = build_model(checkpoint.config, self._ctx, self._max_model_len)
        with torch.inference_mode():
            slots = self._model.weight_slots()
            if checkpoint.open_weights is None:
                fill_randomly(slots, self._config.model.seed)
            else:
                load_weights(slots, checkpoint.open_weights())

    def profile_blocks(self) -> tuple[int, int]:
        """(device blocks, host blocks) that fit."""
        with explained(lambda: of_steps(self._config)):
            activations = self._activation_bytes() if self._config.cache.num_blocks is None else 0
        return blocks_that_fit(self._config, self._shape, self._max_model_len, self._ctx.device, activations)

    def allocate(self, num_blocks: int, num_host_blocks: int) -> None:
        with explained(lambda: of_allocation(self._config, gpu=self._on_gpu)):
            self._steps = self._make_steps(self._executor(num_blocks, num_host_blocks))

    def _make_steps(self, executor: StepExecutor) -> Steps:
        if not self._on_gpu:
            return ThreadedSteps(executor, self._seat.pulse)
        from octavo_engine.runner.device.build import device_steps  # brings Triton

        return device_steps(executor, self._config, self._heads, self._ctx.device, self._ctx.dtype)

    def launch(self, step: StepInput) -> None:
        if self._steps is None:
            raise EngineError("The runner was asked for a step before its KV cache was allocated.")
        with explained(lambda: of_allocation(self._config, gpu=self._on_gpu)):
            self._steps.launch(step)

    def ready(self) -> bool:
        """Whether the oldest launched step can be collected without waiting."""
        return self._steps is not None and self._steps.ready()

    def collect(self) -> StepResult:
        """The oldest launched step's result; an error of the step is raised here."""
        if self._steps is None:
            raise EngineError("The runner was asked for a result before its KV cache was allocated.")
        return self._steps.collect()

    def shutdown(self) -> None:
        if self._steps is not None:
            self._steps.shutdown()

    @property
    def on_cpu(self) -> bool:
        return choose_device(self._config.model, self._seat.device).type == "cpu"

    @property
    def _on_gpu(self) -> bool:
        return self._ctx.device.type == "cuda"

    def _executor(self, num_blocks: int, num_host_blocks: int) -> StepExecutor:
        ctx, block_size = self._ctx, self._config.cache.block_size
        cache = KVCache(self._shape, num_blocks, num_host_blocks, ctx.device, ctx.ops)
        return StepExecutor(
            self._model,
            cache,
            RowTable(self._max_model_len, block_size, self._config.model.seed),
            InputBuilder(block_size, cache.null_slot, self._model_config.windows, ctx.device, ctx.ops),
            Sampler(self._model_config.eos_token_ids),
            self._model_config.vocab_size,
            self._pipe(),
        )

    def _pipe(self) -> Pipe:
        seat, ctx = self._seat, self._ctx
        hidden_size = self._model_config.hidden_size
        return Pipe(seat.before, seat.after, hidden_size, ctx.dtype, ctx.device, seat.pulse)

    def _activation_bytes(self) -> int:
        if not self._on_gpu:
            return 0  # taken from the tenth of memory that the KV cache leaves
        from octavo_engine.runner.device import build

        block_size, longest = self._config.cache.block_size, self._max_model_len
        scheduler = self._config.scheduler
        blocks = build.blocks_of_largest_step(scheduler, block_size, longest)
        return build.activation_bytes(self._executor(blocks, 0), scheduler, longest, self._ctx.device)
