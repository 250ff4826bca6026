"""Chooses the runner: one of this process alone, or one over several ranks."""

from __future__ import annotations

import os
from pathlib import Path

from octavo_engine.config import EngineConfig
from octavo_engine.errors import ConfigError
from octavo_engine.messages import Runner
from octavo_engine.runner.parallel.launcher import Launcher, LocalLauncher


def runner_for(config: EngineConfig) -> Runner:
    """Errors: ConfigError when the ranks cannot be placed; EngineError when they are not in time."""
    if config.parallel.world_size == 1 and config.parallel.executor != "ray":
        from octavo_engine.runner.model_runner import ModelRunner  # brings torch

        return ModelRunner(config)
    from octavo_engine.runner.parallel.runner import ParallelRunner

    return ParallelRunner(config, _launcher(config))


def _launcher(config: EngineConfig) -> Launcher:
    gpus, ranks = _local_gpus(), config.parallel.world_size
    on_gpus = config.model.device == "cuda" or (config.model.device == "auto" and gpus > 0)
    fits = not on_gpus or ranks <= gpus
    if config.parallel.executor == "ray" or (config.parallel.executor == "auto" and not fits):
        from octavo_engine.runner.parallel.ray_launcher import RayLauncher

        return RayLauncher(config, gpus=on_gpus)
    if not fits:
        raise ConfigError(
            f"{ranks} ranks need {ranks} GPUs and this node has {gpus}; lower --tensor-parallel-size or "
            "--pipeline-parallel-size, or use --distributed-executor ray over several nodes."
        )
    return LocalLauncher(ranks)


def _local_gpus() -> int:
    """GPUs that this process may use, found without starting torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
