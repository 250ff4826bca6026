"""The cluster's own controllers, its scheduler and its DNS: processes of this machine."""

from e2e.cluster.control_plane import DOMAIN
from e2e.cluster.go_programs import program
from e2e.cluster.network import HOST
from e2e.cluster.paths import StateFolder
from e2e.cluster.processes import ProcessTable

DNS_READY_PORT = 18181
# The defaults of 20 and 30 requests a second make the start 4 s longer.
QUICK_CLIENT = ("--kube-api-qps=500", "--kube-api-burst=1000")
# An autoscaler that a test can wait for: the defaults are 15 s, 5 min, 30 s and 5 min.
QUICK_AUTOSCALER = (
    "--horizontal-pod-autoscaler-sync-period=2s",
    "--horizontal-pod-autoscaler-downscale-stabilization=5s",
    "--horizontal-pod-autoscaler-initial-readiness-delay=1s",
    "--horizontal-pod-autoscaler-cpu-initialization-period=1s",
)


def start_controllers(state: StateFolder, processes: ProcessTable) -> None:
    """Start controller-manager, scheduler and coredns, by these names."""
    processes.start(
        "controller-manager",
        [
            program("kube-controller-manager"),
            *_common_flags(state, "controller-manager", 11257),
            f"--service-account-private-key-file={state.pki}/service-account.key",
            f"--root-ca-file={state.pki}/ca.crt",
            "--use-service-account-credentials=true",
            "--node-monitor-period=1s",
            "--node-monitor-grace-period=12s",
            *QUICK_AUTOSCALER,
        ],
    )
    processes.start("scheduler", [program("kube-scheduler"), *_common_flags(state, "scheduler", 11259)])
    corefile = state.root / "Corefile"
    corefile.write_text(corefile_text(state))
    processes.start("coredns", [program("coredns"), "-conf", corefile])


def _common_flags(state: StateFolder, name: str, port: int) -> list[str]:
    roles = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    return [
        *(f"--{role}={state.pki}/{name}.conf" for role in roles),
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--profiling=false",
        *QUICK_CLIENT,
    ]


def corefile_text(state: StateFolder) -> str:
    """CoreDNS answers for the cluster's own names and for nothing else."""
    return f""".:53 {{
  bind {HOST}
  ready 127.0.0.1:{DNS_READY_PORT}
  errors
  cache 1
  kubernetes {DOMAIN} in-addr.arpa {{
    kubeconfig {state.kubeconfig}
    pods verified
    ttl 1
  }}
}}
"""
