"""The flags and the tables of ``octavo-engine bench serve|throughput|latency|prefix|mixed``."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec

from octavo_engine.bench.mixed import Mixture, measure_mixed
from octavo_engine.bench.offline import measure_latency, measure_throughput
from octavo_engine.bench.prefix import measure_prefix
from octavo_engine.bench.serve import Load, run_load
from octavo_engine.cli.flags import add_engine_flags, engine_config
from octavo_engine.client import get_json
from octavo_engine.engine import EngineCore
from octavo_engine.errors import ConfigError

_FALLBACK_VOCABULARY = 1000  # of a server that does not tell


def add_bench_flags(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    _add_serve(kinds.add_parser("serve", help="a running server, over HTTP", allow_abbrev=False))
    _add_throughput(
        kinds.add_parser("throughput", help="the engine alone: many requests", allow_abbrev=False)
    )
    _add_latency(
        kinds.add_parser("latency", help="the engine alone: one batch, repeated", allow_abbrev=False)
    )
    _add_prefix(kinds.add_parser("prefix", help="the engine alone: a shared prefix", allow_abbrev=False))
    _add_mixed(
        kinds.add_parser("mixed", help="the engine alone: answers beside long prompts", allow_abbrev=False)
    )


def run_bench(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write JSON where asked. Errors: :class:`EngineError`."""
    result = arguments.measure(arguments)
    for table in result if isinstance(result, list) else [result]:
        _print_table(table)
    if arguments.output_json is not None:
        _write_json(Path(arguments.output_json), result)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default=None, help="default: the server's first model")
    parser.add_argument("--api-key", default=os.environ.get("OCTAVO_API_KEY"))
    parser.add_argument(
        "--max-concurrency", type=int, nargs="+", default=[8], help="clients at once; several: one run each"
    )
    parser.add_argument("--request-rate", type=float, default=0.0, help="requests a second; 0: all at once")
    parser.add_argument("--num-prompts", type=int, default=64)
    _add_workload(parser)
    parser.set_defaults(measure=_measure_serve)


def _add_throughput(parser: argparse.ArgumentParser) -> None:
    add_engine_flags(parser)
    parser.add_argument("--max-concurrency", type=int, default=256)
    parser.add_argument("--num-prompts", type=int, default=64)
    _add_workload(parser)
    parser.set_defaults(measure=_measure_throughput)


def _add_latency(parser: argparse.ArgumentParser) -> None:
    add_engine_flags(parser)
    parser.add_argument("--num-iters", type=int, default=5)
    parser.add_argument("--num-iters-warmup", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    _add_workload(parser)
    parser.set_defaults(measure=_measure_latency)


def _add_prefix(parser: argparse.ArgumentParser) -> None:
    add_engine_flags(parser)
    parser.add_argument("--clients", type=int, default=1, help="prompts at once")
    parser.add_argument("--prefix-len", type=int, default=2000, help="tokens that all prompts share")
    parser.add_argument("--own-len", type=int, default=16, help="tokens after them")
    parser.add_argument("--num-iters", type=int, default=5)
    _add_output(parser)
    parser.set_defaults(measure=_measure_prefix)


def _add_mixed(parser: argparse.ArgumentParser) -> None:
    add_engine_flags(parser)
    parser.add_argument("--streams", type=int, default=8, help="answers under way")
    parser.add_argument("--prompts", type=int, default=2, help="long prompts in the queue at any time")
    parser.add_argument("--prompt-len", type=int, default=2000, help="tokens of a long prompt")
    parser.add_argument(
        "--tokens", type=int, default=200, help="of each stream, without and with long prompts"
    )
    _add_workload(parser)
    parser.set_defaults(measure=_measure_mixed)


def _add_workload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input-len", type=int, default=512, help="random tokens of a prompt")
    parser.add_argument("--output-len", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--workload-seed", type=int, default=0)
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output-json", default=None, metavar="FILE")


def _measure_serve(arguments: argparse.Namespace) -> list[dict[str, Any]] | dict[str, Any]:
    _check_counts(arguments, "num_prompts", "input_len", "output_len")
    for clients in arguments.max_concurrency:
        if clients < 1:
            raise ConfigError(f"--max-concurrency must be at least 1, not {clients}.")
    card = asyncio.run(get_json(arguments.url, "/v1/models", arguments.api_key))["data"][0]
    name, vocab_size = arguments.model or card["id"], card.get("vocab_size") or _FALLBACK_VOCABULARY
    found = []
    for clients in arguments.max_concurrency:
        load = _load(arguments, arguments.num_prompts, clients, vocab_size)
        found.append({"max_concurrency": clients, **run_load(arguments.url, name, load, arguments.api_key)})
    return found if len(found) > 1 else found[0]


def _measure_throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    _check_counts(arguments, "num_prompts", "input_len", "output_len", "max_concurrency")
    core, vocab_size = _start_core(arguments)
    load = _load(arguments, arguments.num_prompts, arguments.max_concurrency, vocab_size)
    try:
        return measure_throughput(core, load)
    finally:
        core.shutdown()


def _measure_latency(arguments: argparse.Namespace) -> dict[str, Any]:
    _check_counts(arguments, "batch_size", "input_len", "output_len", "num_iters")
    core, vocab_size = _start_core(arguments)
    load = _load(arguments, arguments.batch_size, arguments.batch_size, vocab_size)
    try:
        return measure_latency(core, load, runs=arguments.num_iters, warmup_runs=arguments.num_iters_warmup)
    finally:
        core.shutdown()


def _measure_prefix(arguments: argparse.Namespace) -> dict[str, Any]:
    _check_counts(arguments, "clients", "prefix_len", "own_len", "num_iters")
    core, vocab_size = _start_core(arguments)
    try:
        return measure_prefix(
            core,
            clients=arguments.clients,
            prefix_len=arguments.prefix_len,
            own_len=arguments.own_len,
            vocab_size=vocab_size,
            runs=arguments.num_iters,
        )
    finally:
        core.shutdown()


def _measure_mixed(arguments: argparse.Namespace) -> dict[str, Any]:
    _check_counts(arguments, "streams", "prompts", "prompt_len", "input_len", "tokens")
    core, vocab_size = _start_core(arguments)
    mixture = Mixture(
        arguments.streams,
        arguments.prompts,
        arguments.prompt_len,
        arguments.input_len,
        arguments.tokens,
        vocab_size,
        arguments.workload_seed,
    )
    try:
        return measure_mixed(core, mixture)
    finally:
        core.shutdown()


def _start_core(arguments: argparse.Namespace) -> tuple[EngineCore, int]:
    """A core that is ready, and the size of its vocabulary."""
    from octavo_engine.runner.start import runner_for

    config = engine_config(arguments)
    core = EngineCore(config, runner_for(config))
    return core, core.start().vocab_size


def _load(arguments: argparse.Namespace, num_prompts: int, max_concurrency: int, vocab_size: int) -> Load:
    return Load(
        num_prompts=num_prompts,
        input_len=arguments.input_len,
        output_len=arguments.output_len,
        max_concurrency=max_concurrency,
        request_rate=getattr(arguments, "request_rate", 0.0),
        vocab_size=vocab_size,
        seed=arguments.workload_seed,
    )


def _check_counts(arguments: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(arguments, name) < 1:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} must be at least 1, not {getattr(arguments, name)}.")


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "mean", "p50", "p90", "p99")
    for name, value in result.items():
        if isinstance(value, dict):
            table.add_row(name, *(_number(value.get(column)) for column in ("mean", "p50", "p90", "p99")))
        else:
            table.add_row(name, _number(value))
    Console().print(table)


def _number(value: object) -> str:
    return "-" if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)


def _write_json(file: Path, result: Any) -> None:
    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    except OSError as error:
        raise ConfigError(f"--output-json {file} cannot be written: {error.strerror}.") from error
