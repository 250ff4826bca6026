"""The command line: flags to configuration, and refusals as one sentence."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tests.engine.server.running_server import RunningServer, free_port
from tests.engine.server.tiny_model import make_tiny_model

from octavo_engine.bench.serve import Load, Trace, summarize
from octavo_engine.cli.flags import Parser, with_dashes
from octavo_engine.cli.main import main
from octavo_engine.cli.serve import add_serve_flags, server_options
from octavo_engine.config import EMBEDDED_MODEL
from octavo_engine.server.options import ServerOptions


def parse(*arguments: str) -> ServerOptions:
    parser = Parser()
    add_serve_flags(parser)
    return server_options(parser.parse_args(with_dashes(arguments)))


FLAGS: list[tuple[list[str], str, Any]] = [
    (["--max-model-len", "8k"], "engine.model.max_model_len", 8000),
    (["--max_model_len=8K"], "engine.model.max_model_len", 8192),
    (["--dtype", "bfloat16"], "engine.model.dtype", "bfloat16"),
    (["--load-format", "dummy"], "engine.model.load_format", "dummy"),
    (["--block-size", "32"], "engine.cache.block_size", 32),
    (["--swap-space", "0.5"], "engine.cache.swap_space_bytes", 1 << 29),
    (["--kv-cache-memory-bytes", "2G"], "engine.cache.cpu_kv_cache_bytes", 2 << 30),
    (["--gpu-memory-utilization", "0.5"], "engine.cache.gpu_memory_utilization", 0.5),
    (["--num-gpu-blocks-override", "7"], "engine.cache.num_blocks", 7),
    (["--no-enable-prefix-caching"], "engine.cache.enable_prefix_caching", False),
    (["--no-enable-chunked-prefill"], "engine.scheduler.enable_chunked_prefill", False),
    (["--max-num-seqs", "3"], "engine.scheduler.max_num_seqs", 3),
    (["--max-num-batched-tokens", "512"], "engine.scheduler.max_num_batched_tokens", 512),
    (["--scheduling-policy", "priority"], "engine.scheduler.policy", "priority"),
    (["--preemption-mode", "swap"], "engine.scheduler.preemption_mode", "swap"),
    (["--max-waiting", "0"], "engine.scheduler.max_waiting", 0),
    (["--step-timeout", "5"], "engine.step_timeout", 5.0),
    (["--served-model-name", "a", "b"], "model_names", ("a", "b")),
    (["--port", "9"], "port", 9),
    (["--api-key", "k"], "api_key", "k"),
    (["--allowed-origins", '["https://a.example"]'], "allowed_origins", ("https://a.example",)),
    (["--drain-timeout", "3"], "drain_timeout", 3.0),
    (["--enforce-eager", "-tp", "1"], "engine.parallel.tensor", 1),
]


@pytest.mark.model
@pytest.mark.parametrize(("arguments", "where", "expected"), FLAGS, ids=[" ".join(flag[0]) for flag in FLAGS])
def test_a_flag_reaches_its_setting(arguments: list[str], where: str, expected: Any) -> None:
    found: Any = parse(*arguments)
    for name in where.split("."):
        found = getattr(found, name)
    assert found == expected


@pytest.mark.model
def test_without_flags_the_embedded_model_is_served_on_port_8000() -> None:
    assert parse() == ServerOptions()
    assert parse().model_names == (EMBEDDED_MODEL,)


def test_the_models_generation_config_makes_defaults_unless_switched_off(
    tmp_path: Path,
) -> None:
    make_tiny_model(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "do_sample": true}')
    assert parse(str(tmp_path)).generation_defaults == {"temperature": 0.6}
    assert parse(str(tmp_path), "--generation-config", "none").generation_defaults == {}


REFUSALS = [
    (["serve", "--max-modl-len", "5"], "Unknown flag --max-modl-len; did you mean --max-model-len?"),
    (["serve", "--data-parallel-size", "2"], "--data-parallel-size 2 is not built yet; only 1 is."),
    (["serve", "-tp", "0"], "--tensor-parallel-size must be at least 1, not 0."),
    (
        ["serve", "--pipeline-layers", "3,4,5"],
        "--pipeline-layers 3,4,5 must name 1 numbers of at least 1",
    ),
    (["serve", "--quantization", "awq"], "invalid choice: 'awq' (choose from"),
    (["serve", "--kv-cache-dtype", "int8"], "invalid choice: 'int8' (choose from"),
    (["serve", "--enable_lora"], "LoRA adapters are not built yet; leave out --enable-lora."),
    (["serve", "--speculative-config={}"], "leave out --speculative-config."),
    (["serve", "--trust-remote-code"], "Code from model folders is never run"),
    (["serve", "--dtype", "int3"], "invalid choice: 'int3'"),
    (["serve", "--max-model-len", "long"], "'long' is not a number such as 8192, 8k or 8K"),
    (["serve", "--max-num-seqs", "0"], "--max-num-seqs must be at least 1, not 0."),
    (
        ["serve", "--gpu-memory-utilization", "1.5"],
        "--gpu-memory-utilization must be between 0.01 and 1, not 1.5.",
    ),
    (["serve", "--port", "70000"], "--port must be between 0 and 65535, not 70000."),
    (["serve", "--api-key", ""], "--api-key is empty; give a key, or leave the flag out"),
    (["serve", "--allowed-origins", "*"], "'*' is not a JSON list of origins, such as"),
    (["serve", "/nowhere/model"], "/nowhere/model does not exist"),
    (["serve", "a", "--model", "b"], "Two models are named, a and --model b; name one."),
    (["serve", "--model", "package://no-such-package"], "Package 'no-such-package' is not installed"),
    (["bench", "serve", "--num-prompts", "0"], "--num-prompts must be at least 1, not 0."),
    (["bench"], "arguments are required: KIND"),
    (["bench", "serve", "--input-length", "5"], "did you mean --input-len?"),
    (["sreve"], "Unknown command sreve; did you mean serve?"),
    ([], "No command is given; name one of serve, join, fetch, chat, bench."),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSALS, ids=[" ".join(case[0]) for case in REFUSALS])
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert words in last
    assert "Traceback" not in last


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"octavo-engine {version('octavo')}\n"


def test_a_busy_port_is_one_sentence_and_exit_code_1(
    tmp_path: Path, server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["serve", str(make_tiny_model(tmp_path)), "--host", "127.0.0.1", "--port", str(server.port)]
    assert main(flags) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"Cannot listen on 127.0.0.1 port {server.port}: Address already in use")


def test_the_sentence_is_the_containers_termination_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    message = tmp_path / "termination-log"
    message.touch()  # as the kubelet does
    monkeypatch.setattr("octavo_engine.cli.main._TERMINATION_LOG", message)
    assert main(["serve", "--node-rank=1"]) == 2
    assert message.read_text() == capsys.readouterr().err


def test_chatting_with_nobody_says_how_to_start_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "start one with octavo-engine serve" in capsys.readouterr().err


def test_chat_streams_the_answers_of_a_running_server(
    server: RunningServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["hi", "/clear", "", "hi", "/exit"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines))
    assert main(["chat", "--url", server.url, "--max-tokens", "5", "--temperature", "0"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second != ""


def test_bench_serve_measures_a_running_server(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    load = ["--num-prompts", "6", "--input-len", "20", "--output-len", "4", "--max-concurrency", "3"]
    assert main(["bench", "serve", "--url", server.url, *load, "--output-json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert (result["completed"], result["failed"]) == (6, 0)
    assert 0 < result["ttft_ms"]["p50"] <= result["e2e_ms"]["p99"]
    assert "output_tokens_per_s" in capsys.readouterr().out


def test_a_summary_gives_rates_and_nearest_rank_percentiles() -> None:
    load = Load(num_prompts=3, input_len=10, output_len=3, max_concurrency=1, request_rate=0, vocab_size=5)
    traces = [Trace(0.0, [0.1 * n, 0.1 * n + 0.02, 0.1 * n + 0.04], 3) for n in (1, 2)] + [
        Trace(0.0, error="x")
    ]
    found = summarize(traces, 2.0, load)
    assert (found["completed"], found["failed"], found["first_error"]) == (2, 1, "x")
    assert found["output_tokens_per_s"] == 3.0
    assert found["total_tokens_per_s"] == 13.0
    assert found["ttft_ms"]["p50"] == pytest.approx(100)
    assert found["ttft_ms"]["p99"] == pytest.approx(200)
    assert found["tpot_ms"]["mean"] == pytest.approx(20)
