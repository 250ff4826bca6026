"""containerd, runc, the CNI plugins and nftables from Debian's packages, unpacked and not installed."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from images.cache import key_of, made_once
from images.commands import run
from images.errors import BuildError

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
        BuildError: this is not a Debian, or a package cannot be fetched.
    """

    def make(root: Path) -> None:
        say("fetching containerd, runc and CNI plugins from Debian (once)")
        with tempfile.TemporaryDirectory() as downloads:
            _unpack(Path(downloads), root)

    return made_once("container-parts", _key(), make)


def _key() -> str:
    return key_of([debian_release(), *PACKAGES, *NFT_COMMANDS])


def debian_release() -> str:
    """Its first number.

    Raises:
        BuildError: this is not a Debian.
    """
    release = Path("/etc/debian_version")
    if not release.exists() or not shutil.which("apt-get"):
        raise BuildError("programs such as containerd are taken from Debian's packages: run it on Debian 12")
    return release.read_text().strip().partition(".")[0]


def unpack(names: Sequence[str], downloads: Path, root: Path) -> list[Path]:
    """Lay Debian packages under `root` without installing them; the packages stay in `downloads`."""
    run(["apt-get", *AS_ROOT, "update", "-q"])
    run(["apt-get", *AS_ROOT, "download", "-q", *names], cwd=downloads)
    packages = sorted(downloads.glob("*.deb"))
    for package in packages:
        run(["dpkg", "-x", package, root])
    return packages


def _unpack(downloads: Path, root: Path) -> None:
    packages = unpack(PACKAGES, downloads, root)
    for command in NFT_COMMANDS:  # what Debian's alternatives would link
        (root / "usr/sbin" / command).unlink(missing_ok=True)
        (root / "usr/sbin" / command).symlink_to("xtables-nft-multi")
    (root / "packages").write_text("".join(f"{path.name}\n" for path in packages))
