"""What a program is built from, and the words for what is missing."""

from dataclasses import replace
from pathlib import Path

import pytest
from e2e.cluster import go_programs
from e2e.cluster.go_programs import BUILDS, GoBuild, program, require_go
from images.errors import BuildError

ETCD = next(build for build in BUILDS if build.name == "etcd")
KUBERNETES = next(build for build in BUILDS if build.name == "kubernetes")


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a module called `tool`, which may be changed."""
    monkeypatch.setattr(go_programs, "TOOLS", tmp_path)
    module = tmp_path / "tool"
    module.mkdir()
    (module / "go.mod").write_text("module tool\n\ngo 1.26.0\n")
    (module / "go.sum").write_text("sums\n")
    return module


@pytest.mark.parametrize("name", ["go.mod", "go.sum"])
def test_a_change_of_a_pin_gives_another_key(copied: Path, name: str) -> None:
    build = GoBuild("tool", ("tool",), "example.org/tool", 1)
    before = build.key
    (copied / name).write_text((copied / name).read_text() + "\n// more\n")
    assert build.key != before


def test_a_change_of_version_gives_another_key() -> None:
    helm = next(build for build in BUILDS if build.name == "helm")
    assert replace(helm, package="helm.sh/helm/v3/cmd/helm@v3.0.0").key != helm.key


def test_kubernetes_knows_the_version_that_it_is_pinned_to() -> None:
    pinned = (KUBERNETES.module / "go.mod").read_text()
    version = KUBERNETES.link_flags.split("gitVersion=")[1].split()[0]
    assert f"k8s.io/kubernetes {version}" in pinned


def test_a_module_is_built_only_as_pinned() -> None:
    assert "-mod=readonly" in ETCD.command(Path("out"))


def test_an_unknown_program_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BuildError, match=r"no program 'kubeadm' .* kube-apiserver, .*helm"):
        program("kubeadm")


def test_a_missing_go_is_said_with_the_version_that_is_needed(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(copied))
    with pytest.raises(BuildError, match=r"^Go is missing: install Go >= 1\.26 "):
        require_go()


@pytest.mark.parametrize("told", ["go1.9.7", "go1.25.9"])
def test_an_old_go_is_said_with_both_versions(
    copied: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    _pretend_go(copied, told)
    monkeypatch.setenv("PATH", f"{copied}:/usr/bin:/bin")
    with pytest.raises(BuildError, match=rf"^Go {told[2:]} is too old: install Go >= 1\.26$"):
        require_go()


def test_a_new_go_is_taken(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_go(copied, "go1.30.1")
    monkeypatch.setenv("PATH", f"{copied}:/usr/bin:/bin")
    assert require_go() is None  # type: ignore[func-returns-value]


def _pretend_go(folder: Path, version: str) -> None:
    (folder / "go").write_text(f"#!/bin/sh\necho {version}\n")
    (folder / "go").chmod(0o755)
