"""etcd and a kube-apiserver: all that an operator's test needs of Kubernetes, within two seconds."""

import shutil
import signal
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from e2e.cluster.go_programs import program
from e2e.cluster.paths import StateFolder
from e2e.cluster.pki import KeyPair, authority, issue, kubeconfig
from e2e.cluster.processes import ProcessTable

DOMAIN = "cluster.local"
SERVICE_NET = "10.202.0.0/16"
FIRST_SERVICE_IP = "10.202.0.1"


def free_ports(count: int) -> list[int]:
    """As many ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass(frozen=True)
class Addresses:
    """Where the control plane listens."""

    host: str
    apiserver: int
    etcd_client: int
    etcd_peer: int

    @classmethod
    def on_loopback(cls) -> "Addresses":
        """Free ports of 127.0.0.1, for any number of control planes on a machine."""
        return cls("127.0.0.1", *free_ports(3))

    @property
    def url(self) -> str:
        """The API server's."""
        return f"https://{self.host}:{self.apiserver}"

    @property
    def etcd_url(self) -> str:
        """etcd's, for its only client."""
        return f"http://127.0.0.1:{self.etcd_client}"


@dataclass(frozen=True)
class ControlPlane:
    """A real etcd and kube-apiserver with RBAC and API aggregation, without controllers and nodes.

    As a context manager it lives in a temporary folder on free ports of 127.0.0.1 and leaves nothing behind.
    An APIService reaches a server on this machine through a Service of type ExternalName `localhost`.
    """

    state: StateFolder = field(default_factory=StateFolder.temporary)
    addresses: Addresses = field(default_factory=Addresses.on_loopback)
    apiserver_flags: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The API server's URL."""
        return self.addresses.url

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig of a member of system:masters."""
        return self.state.kubeconfig

    @property
    def processes(self) -> ProcessTable:
        """etcd and apiserver, by these names."""
        return ProcessTable(self.state.processes, self.state.logs)

    def start(self) -> KeyPair:
        """Write the certificates and start both processes; return the authority, to issue more from.

        Raises:
            BuildError: a program cannot be built.
        """
        self.state.create()
        ca = self._write_certificates()
        self.processes.start("etcd", [program("etcd"), *_as_flags(self._etcd())])
        self.processes.start("apiserver", [program("kube-apiserver"), *_as_flags(self._apiserver())])
        return ca

    def wait_ready(self) -> None:
        """Wait until the API server says that it is ready.

        Raises:
            ClusterError: it is not within a minute.
        """
        self.processes.wait("apiserver", "the API server's readiness", lambda: self.get("/readyz") == b"ok")

    def get(self, path: str) -> bytes:
        """What the API server answers to a GET of `path` by an administrator.

        Raises:
            OSError: it cannot be reached, or answers with an error.
        """
        trust = ssl.create_default_context(cafile=self.state.pki / "ca.crt")
        trust.load_cert_chain(self.state.pki / "admin.crt", self.state.pki / "admin.key")
        with urllib.request.urlopen(self.url + path, context=trust, timeout=5) as answer:
            content: bytes = answer.read()
            return content

    def stop(self) -> None:
        """End both processes."""
        names = self.processes.names()
        for name, first in (("apiserver", signal.SIGKILL), ("etcd", signal.SIGTERM)):
            if name in names:
                self.processes.stop(name, first, grace=3)

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.state.root)

    def _write_certificates(self) -> KeyPair:
        pki = self.state.pki
        ca, front = authority("octavo-ca"), authority("octavo-front-proxy-ca")
        service = "kubernetes.default.svc"
        hosts = ["kubernetes", "kubernetes.default", service, f"{service}.{DOMAIN}", "localhost"]
        addresses = {"127.0.0.1", self.addresses.host, FIRST_SERVICE_IP}
        admin = issue(ca, "admin", "system:masters")
        pairs = {
            "ca": ca,
            "front-proxy-ca": front,
            "front-proxy-client": issue(front, "front-proxy-client"),
            "apiserver": issue(ca, "kube-apiserver", hosts=[*hosts, *addresses]),
            "kubelet-client": issue(ca, "kube-apiserver-kubelet-client", "system:masters"),
            "service-account": authority("service-account"),
            "admin": admin,
        }
        for name, pair in pairs.items():
            pair.write(pki, name)
        self.kubeconfig.write_text(kubeconfig(self.url, ca, admin))
        return ca

    def _etcd(self) -> dict[str, str]:
        peer = f"http://127.0.0.1:{self.addresses.etcd_peer}"
        return {
            "data-dir": f"{self.state.root}/etcd",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
            "listen-client-urls": self.addresses.etcd_url,
            "advertise-client-urls": self.addresses.etcd_url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }

    def _apiserver(self) -> dict[str, str]:
        return {
            "etcd-servers": self.addresses.etcd_url,
            "bind-address": "127.0.0.1" if self.addresses.host == "127.0.0.1" else "0.0.0.0",
            "secure-port": str(self.addresses.apiserver),
            "service-cluster-ip-range": SERVICE_NET,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "profiling": "false",
            **self._certificate_flags(),
            **self._aggregation_flags(),
            **self.apiserver_flags,
        }

    def _certificate_flags(self) -> dict[str, str]:
        pki = self.state.pki
        return {
            "client-ca-file": f"{pki}/ca.crt",
            "tls-cert-file": f"{pki}/apiserver.crt",
            "tls-private-key-file": f"{pki}/apiserver.key",
            "kubelet-certificate-authority": f"{pki}/ca.crt",
            "kubelet-client-certificate": f"{pki}/kubelet-client.crt",
            "kubelet-client-key": f"{pki}/kubelet-client.key",
            "service-account-issuer": f"https://kubernetes.default.svc.{DOMAIN}",
            "service-account-key-file": f"{pki}/service-account.crt",  # a private key is refused
            "service-account-signing-key-file": f"{pki}/service-account.key",
        }

    def _aggregation_flags(self) -> dict[str, str]:
        pki = self.state.pki
        return {
            "requestheader-client-ca-file": f"{pki}/front-proxy-ca.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "proxy-client-cert-file": f"{pki}/front-proxy-client.crt",
            "proxy-client-key-file": f"{pki}/front-proxy-client.key",
        }


def _as_flags(values: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]
