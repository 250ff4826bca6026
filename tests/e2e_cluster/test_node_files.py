"""The files that a node's processes read."""

import json
import tomllib
from pathlib import Path

import pytest
from e2e.cluster import node_files
from e2e.cluster.network import Node
from e2e.cluster.paths import StateFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return node_files.write_node_files(StateFolder(tmp_path), Node(2), "/octavo-test/n2")


def test_the_kubelet_is_strict_about_who_asks_it(folder: Path) -> None:
    kubelet = json.loads((folder / "kubelet.json").read_text())
    assert kubelet["authentication"]["anonymous"] == {"enabled": False}
    assert kubelet["authorization"] == {"mode": "Webhook"}


def test_the_kubelet_stays_below_its_own_control_group(folder: Path) -> None:
    assert json.loads((folder / "kubelet.json").read_text())["cgroupRoot"] == "/octavo-test/n2"


def test_pods_get_addresses_of_their_nodes_range(folder: Path) -> None:
    network = json.loads((folder / "cni/10-pods.conflist").read_text())
    assert network["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.201.2.0/24"}]]


def test_containerd_runs_sandboxes_from_the_local_image(folder: Path) -> None:
    config = tomllib.loads((folder / "containerd.toml").read_text())
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == node_files.PAUSE_IMAGE
    assert cri["cni"]["conf_dir"] == str(folder / "cni")
    assert cri["containerd"]["runtimes"]["runc"]["options"] == {"SystemdCgroup": False}


def test_var_run_points_to_the_nodes_own_run(folder: Path) -> None:
    assert (folder / "var/run").readlink() == Path("/run")
    assert (folder / "var/lib/kubelet").is_dir()
