"""The flags of several ranks."""

from __future__ import annotations

import argparse

from octavo_engine.config import ParallelConfig
from octavo_engine.errors import ConfigError

PARALLEL_LIMITS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "group_start_timeout",
    "collective_timeout",
)


def add_parallel_flags(group: argparse._ArgumentGroup) -> None:
    parallel = ParallelConfig()
    group.add_argument(
        "--tensor-parallel-size", "-tp", type=int, default=1, help="GPUs that share each layer"
    )
    group.add_argument(
        "--pipeline-parallel-size", "-pp", type=int, default=1, help="stages of consecutive layers"
    )
    group.add_argument(
        "--pipeline-layers", type=layer_counts, default=None, metavar="N,N", help="layers of each stage"
    )
    group.add_argument(
        "--distributed-executor",
        "--distributed-executor-backend",
        choices=("auto", "local", "mp", "ray"),
        default=parallel.executor,
        help="auto: Ray only for more ranks than this node has GPUs",
    )
    group.add_argument(
        "--ray-port", type=int, default=parallel.ray_port, help="of Ray's head, where others join"
    )
    group.add_argument(
        "--group-start-timeout",
        type=float,
        default=parallel.start_timeout,
        help="seconds that every rank has to start",
    )
    group.add_argument(
        "--collective-timeout",
        type=float,
        default=parallel.collective_timeout,
        help="seconds without progress after which a rank counts as hung",
    )
    group.add_argument("--data-parallel-size", "-dp", type=int, default=1, help="only 1 yet")


def layer_counts(text: str) -> tuple[int, ...]:
    """``20,12``."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 20,12") from None


def parallel_config(arguments: argparse.Namespace) -> ParallelConfig:
    executor = arguments.distributed_executor
    return ParallelConfig(
        tensor=arguments.tensor_parallel_size,
        pipeline=arguments.pipeline_parallel_size,
        pipeline_layers=arguments.pipeline_layers,
        executor="local" if executor == "mp" else executor,
        ray_port=arguments.ray_port,
        start_timeout=arguments.group_start_timeout,
        collective_timeout=arguments.collective_timeout,
    )


def check_parallel(arguments: argparse.Namespace) -> None:
    """Errors: :class:`ConfigError` naming the flag."""
    if arguments.data_parallel_size != 1:
        raise ConfigError(f"--data-parallel-size {arguments.data_parallel_size} is not built yet; only 1 is.")
    given, stages = arguments.pipeline_layers, arguments.pipeline_parallel_size
    if given is not None and (len(given) != stages or min(given) < 1):
        text = ",".join(map(str, given))
        raise ConfigError(
            f"--pipeline-layers {text} must name {stages} numbers of at least 1, one for each of "
            f"--pipeline-parallel-size {stages}."
        )
