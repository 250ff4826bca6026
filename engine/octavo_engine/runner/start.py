"""Chooses the runner: one of this process alone, or one over several ranks."""

from __future__ import annotations

from octavo_engine.config import EngineConfig
from octavo_engine.messages import Runner
from octavo_engine.runner.parallel.launcher import Launcher, LocalLauncher


def runner_for(config: EngineConfig) -> Runner:
    """Errors: ConfigError when the ranks asked for cannot be placed."""
    if config.parallel.world_size == 1:
        from octavo_engine.runner.model_runner import ModelRunner  # brings torch

        return ModelRunner(config)
    from octavo_engine.runner.parallel.runner import ParallelRunner

    return ParallelRunner(config, _launcher(config))


def _launcher(config: EngineConfig) -> Launcher:
    return LocalLauncher(config.parallel.world_size)
