"""The base of all images: a Debian that holds Python, what it needs, and a shell."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from images.cache import key_of, made_once
from images.commands import run
from images.layers import write_layer

SUITE = "bookworm"
PACKAGES = "ca-certificates,coreutils,dash,libc-bin,libgomp1,libstdc++6,python3"
PYTHON = "3.11"  # the one of SUITE
USER = 65532
CODE, SITE = "/opt/octavo/code", "/opt/octavo/site"  # where a part's own code and its libraries lie
MOUNTED_SITE = "/opt/octavo/mounted-site"  # where a node's copy of the libraries is mounted
ACCOUNTS = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\noctavo:x:{USER}:{USER}:octavo:/tmp:/bin/sh\n",
    "etc/group": f"root:x:0:\noctavo:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
UNUSED = (
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "var/lib/apt",
    "var/cache",
    "var/log",
    "etc/apt",
)
BUNDLE = "etc/ssl/certs/ca-certificates.crt"
RECIPE = 3  # to be raised when the code below makes another base of the same settings


def base_key() -> str:
    """Changes whenever the base would."""
    return key_of([SUITE, PACKAGES, repr(ACCOUNTS), repr(UNUSED), str(RECIPE)])


def base_root(say: Callable[[str], None]) -> Path:
    """The folder in which the base lies unpacked.

    Raises:
        BuildError: mmdebstrap cannot be installed, or Debian's packages cannot be fetched.
    """

    def make(root: Path) -> None:
        say(f"unpacking a small Debian {SUITE} (once)")
        _install_mmdebstrap()
        run(["mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", SUITE, root])
        for each in UNUSED:
            shutil.rmtree(root / each, ignore_errors=True)
        for name, text in ACCOUNTS.items():
            (root / name).write_text(text)
        for folder in (CODE, SITE, MOUNTED_SITE):
            (root / folder.strip("/")).mkdir(parents=True)
        _bundle_certificates(root)
        compile_bytecode(root, root / "usr/lib/python3.11", "/usr/lib/python3.11")

    return made_once("images", f"base-{base_key()}", make)


def base_layer(say: Callable[[str], None]) -> Path:
    """The base as a layer, without device files: a container has its own."""
    root = base_root(say)
    return made_once("images", f"base-{base_key()}.tar", lambda out: write_layer(out, root, skip=("dev/*",)))


def compile_bytecode(root: Path, folder: Path, at: str) -> None:
    """Compile the Python files of `folder` with the base's own Python, as if `folder` were at `at` in it.

    Pods cannot write bytecode, and would compile everything again at every start. The compiled files are
    taken as valid without a look at the sources, since times in a layer are zero. What cannot be compiled
    (templates for other versions of Python) stays as it is.
    """
    script = """
        if [ "$FOLDER" != "$ROOT$AT" ]; then mount --bind "$FOLDER" "$ROOT$AT"; fi
        mount -t tmpfs tmpfs "$ROOT/dev/shm"
        exec chroot "$ROOT" python3 -m compileall -qq -j 0 --invalidation-mode unchecked-hash "$AT" """
    environment = {
        "ROOT": str(root),
        "FOLDER": str(folder),
        "AT": at,
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    subprocess.run(
        ["unshare", "--mount", "sh", "-euc", script], env=environment, check=False, capture_output=True
    )


def _install_mmdebstrap() -> None:
    if not shutil.which("mmdebstrap"):
        run(["apt-get", "update", "-q"])
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "mmdebstrap"])


def _bundle_certificates(root: Path) -> None:
    """What the package's own script would do: all certificates in one file."""
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    (root / BUNDLE).parent.mkdir(parents=True, exist_ok=True)
    (root / BUNDLE).write_text("".join(path.read_text() for path in certificates))
