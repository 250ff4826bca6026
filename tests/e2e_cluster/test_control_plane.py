"""A real etcd and kube-apiserver."""

import json
import urllib.error

import pytest
from e2e.cluster.control_plane import Addresses, ControlPlane, free_ports
from e2e.kubectl import Kubectl


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_the_url_names_the_host_and_the_secure_port() -> None:
    assert Addresses("10.200.0.1", 16443, 2, 3).url == "https://10.200.0.1:16443"


@pytest.mark.apiserver
def test_a_control_plane_serves_while_it_is_entered_and_leaves_nothing() -> None:
    with ControlPlane() as plane:
        assert json.loads(plane.get("/version"))["gitVersion"].startswith("v1.")
        kubectl = Kubectl(plane.kubeconfig)
        kubectl.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}}
        )
        assert kubectl.get("configmap", "c")["data"] == {"a": "b"}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            plane.get("/api/v1/namespaces/nowhere")
        processes = [plane.processes.get(name) for name in plane.processes.names()]
        assert all(process.alive for process in processes)
        assert len(processes) == 2
    assert not any(process.alive for process in processes)
    assert not plane.state.root.exists()


@pytest.mark.apiserver
def test_two_control_planes_run_side_by_side() -> None:
    with ControlPlane() as one, ControlPlane() as other:
        assert one.url != other.url
        assert one.get("/readyz") == other.get("/readyz") == b"ok"
