"""What the demo says."""

from pathlib import Path

import pytest
from e2e import demo
from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import ClusterError
from e2e.kubectl import Kubectl


def test_a_cluster_is_refused_in_one_sentence_to_who_is_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match="run this as root"):
        Cluster("never").check()


def test_a_missing_command_is_said_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="command ip is missing: `apt-get install iproute2"):
        Cluster("never").check()


def test_the_users_own_cluster_needs_a_registry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLUSTER", "current")
    monkeypatch.delenv("IMAGE_REGISTRY", raising=False)
    assert demo.main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: CLUSTER=current needs IMAGE_REGISTRY")
    assert said.count("\n") == 1


def test_the_same_progress_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = demo.Progress(0.0)
    for text in ("model: Loading", "model: Loading", "model: Ready"):
        progress.say(text)
    assert [line.split("s  ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "model: Loading",
        "model: Ready",
    ]


def test_the_next_commands_on_a_local_cluster_can_be_pasted() -> None:
    text = demo.next_steps(Kubectl(Path("/state/kubeconfig")), "http://10.202.0.9", Path("/cache/bin"))
    for command in (
        "export KUBECONFIG=/state/kubeconfig PATH=/cache/bin:$PATH",
        "kubectl get llmd",
        "kubectl scale llmd smollm2 --replicas=2",
        "curl http://10.202.0.9/v1/models",
        "make demo-down",
    ):
        assert f"  {command}" in text.splitlines()


def test_on_the_users_cluster_they_forward_a_port() -> None:
    text = demo.next_steps(Kubectl(), "http://127.0.0.1:41231", None)
    assert "kubectl port-forward -n octavo-system service/octavo-router 8000:80 &" in text
    assert "curl http://127.0.0.1:8000/v1/models" in text
    assert "CLUSTER=current make demo-down" in text
