"""The engine's flags, spelled as vLLM's where they mean the same, and the refusal of those not built yet."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import NoReturn, get_args

from octavo_engine.batch_size import usual_batch_size
from octavo_engine.cli.parallel_flags import (
    PARALLEL_LIMITS,
    add_parallel_flags,
    check_parallel,
    parallel_config,
)
from octavo_engine.config import (
    EMBEDDED_MODEL,
    CacheConfig,
    CacheDtype,
    Device,
    Dtype,
    EngineConfig,
    LoadFormat,
    ModelConfig,
    QuantizationMethod,
    SchedulerConfig,
)
from octavo_engine.errors import ConfigError
from octavo_engine.sources.local import local_model

_GIB = 1 << 30
_MULTIPLES = {"k": 10**3, "K": 1 << 10, "m": 10**6, "M": 1 << 20, "g": 10**9, "G": 1 << 30}

_UNBUILT = {
    "--enable-lora": "LoRA adapters are not built yet",
    "--lora-modules": "LoRA adapters are not built yet",
    "--max-loras": "LoRA adapters are not built yet",
    "--max-lora-rank": "LoRA adapters are not built yet",
    "--speculative-config": "Speculative decoding is not built yet",
    "--speculative-model": "Speculative decoding is not built yet",
    "--num-speculative-tokens": "Speculative decoding is not built yet",
    "--enable-auto-tool-choice": "Tool calls are not built yet",
    "--tool-call-parser": "Tool calls are not built yet",
    "--reasoning-parser": "Reasoning parsers are not built yet",
    "--guided-decoding-backend": "Structured output is not built yet",
    "--enable-expert-parallel": "Mixture-of-experts models are not built yet",
    "--kv-transfer-config": "Disaggregated prefill is not built yet",
    "--cpu-offload-gb": "Offloading weights is not built yet",
    "--rope-scaling": "Overriding the model's rope scaling is not built yet; edit the model's config.json",
    "--hf-overrides": "Overriding the model's config is not built yet; edit the model's config.json",
    "--revision": "A revision is a part of the model: hf://OWNER/NAME@REVISION",
    "--download-dir": "Models are downloaded to $OCTAVO_MODEL_CACHE",
    "--trust-remote-code": "Code from model folders is never run",
    "--otlp-traces-endpoint": "Traces are not built yet",
    "--ssl-keyfile": "TLS is not built yet; end it at a proxy or the cluster's gateway",
    "--ssl-certfile": "TLS is not built yet; end it at a proxy or the cluster's gateway",
    "--config": "A file of flags is not built yet; give the flags themselves",
}


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one sentence and an exit code of 2, raised as :class:`ConfigError`."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")

    def flags(self) -> list[str]:
        """Every long flag, those of sub-commands included."""
        own = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        nested = [
            action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)
        ]
        return own + [flag for parsers in nested for parser in parsers.values() for flag in parser.flags()]


def refuse_unbuilt(arguments: Sequence[str]) -> None:
    """Errors: :class:`ConfigError` for a flag that is known but does nothing yet."""
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in _UNBUILT:
            raise ConfigError(f"{_UNBUILT[flag]}; leave out {flag}.")


def refuse_unknown(parser: Parser, unknown: Sequence[str]) -> None:
    """Errors: :class:`ConfigError` naming the flag that comes nearest."""
    if not unknown:
        return
    flag = unknown[0].partition("=")[0]
    near = difflib.get_close_matches(flag, parser.flags(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"see {parser.prog} --help."
    what = "flag" if flag.startswith("-") else "argument"
    raise ConfigError(f"Unknown {what} {flag}; {hint}")


def with_dashes(arguments: Sequence[str]) -> list[str]:
    """``--max_model_len=8`` as ``--max-model-len=8``: both spellings are in use."""
    return [_dashed(argument) if argument.startswith("--") else argument for argument in arguments]


def _dashed(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def tokens(text: str) -> int:
    """``8192``, ``8k`` (8,000) or ``8K`` (8,192)."""
    number, factor = (text[:-1], _MULTIPLES[text[-1]]) if text[-1:] in _MULTIPLES else (text, 1)
    try:
        return int(float(number) * factor)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 8192, 8k or 8K") from None


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that make an :class:`EngineConfig`."""
    _add_model_flags(parser.add_argument_group("model"))
    _add_cache_flags(parser.add_argument_group("KV cache"))
    _add_scheduler_flags(parser.add_argument_group("scheduler"))
    add_parallel_flags(parser.add_argument_group("parallelism"))


def _add_model_flags(group: argparse._ArgumentGroup) -> None:
    model = ModelConfig()
    group.add_argument(
        "--model",
        default=None,
        help=f"folder, .gguf file, package://NAME[/FILE], hf://, s3:// or oci:// (default: {EMBEDDED_MODEL})",
    )
    group.add_argument("--dtype", choices=get_args(Dtype), default=model.dtype)
    group.add_argument(
        "--quantization",
        "-q",
        choices=get_args(QuantizationMethod),
        default=None,
        help="fp8, fp8_per_tensor: quantize weights at load; default: as the checkpoint is",
    )
    group.add_argument("--device", choices=get_args(Device), default=model.device)
    group.add_argument("--load-format", choices=get_args(LoadFormat), default=model.load_format)
    group.add_argument(
        "--max-model-len", type=tokens, default=None, help="tokens; default: the model's limit"
    )
    group.add_argument("--seed", type=int, default=model.seed)
    group.add_argument(
        "--enforce-eager",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="no graphs; the only mode on a CPU",
    )


def _add_cache_flags(group: argparse._ArgumentGroup) -> None:
    cache = CacheConfig()
    switch = argparse.BooleanOptionalAction
    group.add_argument("--block-size", type=int, default=cache.block_size, help="tokens of a block")
    group.add_argument("--kv-cache-dtype", choices=get_args(CacheDtype), default=cache.dtype)
    group.add_argument("--gpu-memory-utilization", type=float, default=cache.gpu_memory_utilization)
    group.add_argument(
        "--kv-cache-memory-bytes",
        type=tokens,
        default=cache.cpu_kv_cache_bytes,
        help="on a CPU: size, such as 1G",
    )
    group.add_argument(
        "--swap-space", type=float, default=0.0, help="GiB of host blocks for preemption by swap"
    )
    group.add_argument("--num-gpu-blocks-override", type=int, default=None)
    group.add_argument("--enable-prefix-caching", action=switch, default=cache.enable_prefix_caching)


def _add_scheduler_flags(group: argparse._ArgumentGroup) -> None:
    scheduler = SchedulerConfig()
    switch = argparse.BooleanOptionalAction
    group.add_argument("--max-num-seqs", type=int, default=None)
    group.add_argument("--max-num-batched-tokens", type=tokens, default=None)
    group.add_argument("--enable-chunked-prefill", action=switch, default=scheduler.enable_chunked_prefill)
    group.add_argument(
        "--max-decode-slowdown",
        type=float,
        default=scheduler.max_decode_slowdown,
        help="prompts may make a step so many times as long as its decodes alone; 0: no bound",
    )
    group.add_argument("--scheduling-policy", choices=("fcfs", "priority"), default=scheduler.policy)
    group.add_argument("--preemption-mode", choices=("recompute", "swap"), default=scheduler.preemption_mode)
    group.add_argument(
        "--max-waiting",
        type=int,
        default=scheduler.max_waiting,
        help="more waiting requests are refused with 429",
    )
    group.add_argument(
        "--step-timeout",
        type=float,
        default=EngineConfig().step_timeout,
        help="seconds until /health says hung",
    )


def engine_config(arguments: argparse.Namespace) -> EngineConfig:
    """What the flags describe, its model downloaded if need be. Errors: :class:`EngineError`."""
    _check(arguments)
    batch = usual_batch_size(arguments.device)
    return EngineConfig(
        model=ModelConfig(
            source=local_model(arguments.model or EMBEDDED_MODEL),
            dtype=arguments.dtype,
            quantization=arguments.quantization,
            device=arguments.device,
            load_format=arguments.load_format,
            max_model_len=arguments.max_model_len,
            seed=arguments.seed,
            enforce_eager=arguments.enforce_eager,
        ),
        cache=CacheConfig(
            block_size=arguments.block_size,
            dtype=arguments.kv_cache_dtype,
            gpu_memory_utilization=arguments.gpu_memory_utilization,
            cpu_kv_cache_bytes=arguments.kv_cache_memory_bytes,
            swap_space_bytes=int(arguments.swap_space * _GIB),
            num_blocks=arguments.num_gpu_blocks_override,
            enable_prefix_caching=arguments.enable_prefix_caching,
        ),
        scheduler=SchedulerConfig(
            max_num_seqs=arguments.max_num_seqs or batch.sequences,
            max_num_batched_tokens=arguments.max_num_batched_tokens or batch.tokens,
            enable_chunked_prefill=arguments.enable_chunked_prefill,
            max_decode_slowdown=arguments.max_decode_slowdown,
            policy=arguments.scheduling_policy,
            preemption_mode=arguments.preemption_mode,
            max_waiting=arguments.max_waiting,
        ),
        parallel=parallel_config(arguments),
        step_timeout=arguments.step_timeout,
    )


def _check(arguments: argparse.Namespace) -> None:
    for name in (
        "block_size",
        "max_num_seqs",
        "max_num_batched_tokens",
        "max_model_len",
        "num_gpu_blocks_override",
        *PARALLEL_LIMITS,
    ):
        _check_range(arguments, name, 1, None)
    check_parallel(arguments)
    _check_range(arguments, "max_waiting", 0, None)
    if arguments.max_decode_slowdown != 0:
        _check_range(arguments, "max_decode_slowdown", 1.2, None)
    _check_range(arguments, "swap_space", 0, None)
    _check_range(arguments, "kv_cache_memory_bytes", 1, None)
    _check_range(arguments, "gpu_memory_utilization", 0.01, 1)


def _check_range(arguments: argparse.Namespace, name: str, low: float, high: float | None) -> None:
    value = getattr(arguments, name)
    if value is None or (value >= low and (high is None or value <= high)):
        return
    limits = f"at least {low}" if high is None else f"between {low} and {high}"
    raise ConfigError(f"--{name.replace('_', '-')} must be {limits}, not {value}.")
