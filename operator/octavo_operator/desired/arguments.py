"""Spec -> the command line of `octavo-engine serve`."""

from collections.abc import Iterator

import msgspec

from octavo_operator.api import Engine, LLMDeployment, Parallelism, Spec
from octavo_operator.desired.source import model_argument
from octavo_operator.names import GROUP_VARIABLE, MEMBER_VARIABLE, PORT, members_name

_FLAGS = tuple(f.name for f in msgspec.structs.fields(Engine) if f.name not in {"extra_args", "env"})


def arguments(llmd: LLMDeployment, image_volumes: bool = False) -> list[str]:
    """All arguments of the engine's container; extraArgs come last and so win."""
    spec = llmd.spec
    parallel = parallelism(spec)
    return [
        "serve",
        f"--model={model_argument(spec.model, image_volumes)}",
        *(f"--served-model-name={name}" for name in served_names(llmd)),
        "--host=0.0.0.0",
        f"--port={PORT}",
        f"--drain-timeout={spec.drain_seconds}",
        *([f"--tensor-parallel-size={parallel.tensor}"] if parallel.tensor > 1 else []),
        *([f"--pipeline-parallel-size={parallel.pipeline}"] if parallel.pipeline > 1 else []),
        *group_flags(llmd),
        *engine_flags(spec.engine),
        *spec.engine.extra_args,
    ]


def group_flags(llmd: LLMDeployment) -> list[str]:
    """The same for all pods of all groups: the environment says which pod of which group it is."""
    if llmd.spec.group_size == 1:
        return []
    leader = f"$({GROUP_VARIABLE})-0.{members_name(llmd.metadata.name)}"
    return ["--distributed-executor=ray", f"--node-rank=$({MEMBER_VARIABLE})", f"--leader={leader}"]


def served_names(llmd: LLMDeployment) -> list[str]:
    """The two names that cannot change. Aliases are the router's, which asks under these."""
    meta = llmd.metadata
    return list(dict.fromkeys([llmd.spec.served_name or meta.name, f"{meta.namespace}/{meta.name}"]))


def parallelism(spec: Spec) -> Parallelism:
    """The parallelism given, or tensor parallelism over all GPUs of the pod."""
    return spec.parallelism or Parallelism(tensor=max(spec.resources.gpu, 1))


def engine_flags(engine: Engine) -> Iterator[str]:
    """One flag for each setting that is given, named as the field with dashes."""
    for name in _FLAGS:
        value = getattr(engine, name)
        if value is not None:
            yield _flag(name.replace("_", "-"), value)


def _flag(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value:g}" if isinstance(value, float) else f"--{name}={value}"
