"""containerd, runc, the CNI plugins and nftables from Debian's packages, unpacked and not installed."""

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import cache_root

PACKAGES = (
    "catatonit",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "iptables",
    "libip6tc2",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftables1",
    "libnftnl11",
    "nftables",
    "runc",
)
NFT_COMMANDS = (
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
)
AS_ROOT = ("-o", "APT::Sandbox::User=root")


def container_parts(say: Callable[[str], None] = print) -> Path:
    """The folder in which the packages lie unpacked (its `usr` is laid over a node's), fetched on first use.

    Raises:
        ClusterError: this is not a Debian, or a package cannot be fetched.
    """
    folder = cache_root() / "container-parts" / _key()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            say("fetching containerd, runc and CNI plugins from Debian (once)")
            _unpack_into(folder)
    return folder


def _key() -> str:
    release = Path("/etc/debian_version")
    if not release.exists() or not shutil.which("apt-get"):
        raise ClusterError("the local cluster takes containerd from Debian's packages: run it on Debian 12")
    major = release.read_text().strip().partition(".")[0]
    return hashlib.sha256(f"{major} {PACKAGES} {NFT_COMMANDS}".encode()).hexdigest()[:16]


def _unpack_into(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        downloads, root = Path(scratch, "deb"), Path(scratch, "root")
        downloads.mkdir()
        root.mkdir()
        _apt("update", "-q", where=downloads)
        _apt("download", "-q", *PACKAGES, where=downloads)
        for package in sorted(downloads.glob("*.deb")):
            subprocess.run(["dpkg", "-x", package, root], check=True)
        for command in NFT_COMMANDS:  # what Debian's alternatives would link
            (root / "usr/sbin" / command).unlink(missing_ok=True)
            (root / "usr/sbin" / command).symlink_to("xtables-nft-multi")
        (root / "packages").write_text(
            "\n".join(sorted(path.name for path in downloads.glob("*.deb"))) + "\n"
        )
        root.chmod(0o755)
        shutil.move(root, folder)


def _apt(*words: str, where: Path) -> None:
    done = subprocess.run(
        ["apt-get", *AS_ROOT, *words], cwd=where, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ClusterError(f"`apt-get {' '.join(words)}` failed: {done.stderr.strip()[-300:]}")
