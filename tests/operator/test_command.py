"""The command line of the operator: help, and refusals as one sentence."""

import sys
from pathlib import Path

import pytest

from octavo_operator.__main__ import main

NO_CONTEXT = "contexts: []"
NO_CLUSTER = "{current-context: a, contexts: [{name: a, context: {cluster: here}}]}"
KUBECONFIGS = {
    "not there": (None, "No such file or directory"),
    "no YAML": ("{", "expected the node content"),
    "a list": ("[a]", "'list' object has no attribute 'get'"),
    "no context": (NO_CONTEXT, "Current context is not set"),
    "no such context": ("current-context: a", "it names 'a', which is not in it"),
    "no such cluster": (NO_CLUSTER, "it names 'here', which is not in it"),
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["octavo-operator", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_help_names_the_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    assert "OCTAVO_ENGINE_IMAGE" in capsys.readouterr().out


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("octavo-operator ")


def test_a_flag_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--workers=3") == 2
    assert "unrecognized arguments: --workers=3" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "words"), KUBECONFIGS.values(), ids=list(KUBECONFIGS))
def test_a_kubeconfig_is_refused_that_is(
    text: str | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setenv("OCTAVO_ENGINE_IMAGE", "octavo-engine:1")
    assert run(monkeypatch) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"octavo-operator: the kubeconfig {file} cannot be used: ")
    assert words in sentence
