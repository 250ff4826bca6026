"""The configuration of one node, as the files that its processes read."""

import json
from pathlib import Path
from typing import Any

from e2e.cluster.control_plane import DOMAIN
from e2e.cluster.network import HOST, PODS, Node
from e2e.cluster.paths import StateFolder

PAUSE_IMAGE = "octavo.local/pause:1"
UNUSED_PLUGINS = (
    "io.containerd.internal.v1.opt",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
)
VAR_FOLDERS = ("lib/kubelet", "lib/cni", "log/pods", "log/containers", "tmp")


def write_node_files(state: StateFolder, node: Node, cgroup: str) -> Path:
    """Write all files of `node` into a folder of its own in `state`, and return the folder."""
    folder = state.root / node.name
    for each in VAR_FOLDERS:
        (folder / "var" / each).mkdir(parents=True)
    (folder / "var/run").symlink_to("/run")
    (folder / "cni").mkdir()
    (folder / "resolv.conf").touch()
    (folder / "containerd.toml").write_text(containerd_toml(folder / "cni"))
    configurations = {
        "cni/10-pods.conflist": pod_network(node),
        "kubelet.json": kubelet(state, node, cgroup),
        "proxy.json": kube_proxy(state, node),
    }
    for name, content in configurations.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    return folder


def pod_network(node: Node) -> dict[str, Any]:
    """A routed cable for each pod, with an address of the node's range; host ports by port mapping."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": node.pods}]],
        "dataDir": "/run/cni",
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    cable = {"type": "ptp", "ipMasq": False, "ipam": addresses}
    host_ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [cable, host_ports]}


def containerd_toml(cni_folder: Path) -> str:
    """containerd's configuration (version 2)."""
    runc = 'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc'
    return f"""version = 2
disabled_plugins = {json.dumps(UNUSED_PLUGINS)}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni_folder}"
  [{runc}]
    runtime_type = "io.containerd.runc.v2"
    [{runc}.options]
      SystemdCgroup = false
"""


def kubelet(state: StateFolder, node: Node, cgroup: str) -> dict[str, Any]:
    """The kubelet's configuration: strict about who asks, lax about disk space, quick to tell its state."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{state.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{state.pki}/{node.name}.crt",
        "tlsPrivateKeyFile": f"{state.pki}/{node.name}.key",
        "clusterDomain": DOMAIN,
        "clusterDNS": [HOST],
        "resolvConf": f"{state.root}/{node.name}/resolv.conf",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failSwapOn": False,
        "oomScoreAdj": 0,  # a negative one needs rights that a container may not have
        "makeIPTablesUtilChains": False,
        "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100,
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
        "syncFrequency": "5s",
    }


def kube_proxy(state: StateFolder, node: Node) -> dict[str, Any]:
    """kube-proxy's configuration; the machine's connection tracking stays as it is."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": f"{state.pki}/proxy.conf"},
        "hostnameOverride": node.name,
        "clusterCIDR": PODS,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    }
