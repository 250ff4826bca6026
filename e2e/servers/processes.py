"""Real servers for tests: an OCI registry and an S3 server, built from their Go modules."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster.go_programs import program

START_SECONDS = 60
SERVERS = ("registry", "versitygw")


@contextmanager
def registry(folder: Path, host: str = "127.0.0.1", htpasswd: Path | None = None) -> Iterator[str]:
    """distribution, with its data in `folder`; the value is its URL. `htpasswd`: who may come in."""
    port = free_port(host)
    access = f"auth:\n  htpasswd: {{realm: tests, path: {htpasswd}}}\n" if htpasswd else ""
    settings = (
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '{host}:{port}'}}\n{access}"
    )
    (folder / "registry.yml").write_text(settings)
    words = [str(program("registry")), "serve", str(folder / "registry.yml")]
    with started(words, folder, f"http://{host}:{port}/v2/", {}):
        yield f"http://{host}:{port}"


@contextmanager
def s3(folder: Path, access_key: str, secret_key: str, host: str = "127.0.0.1") -> Iterator[str]:
    """versitygw over files; the value is its URL."""
    port = free_port(host)
    (folder / "buckets").mkdir()
    root = {"ROOT_ACCESS_KEY_ID": access_key, "ROOT_SECRET_ACCESS_KEY": secret_key}
    words = [str(program("versitygw")), "--port", f"{host}:{port}", "--quiet"]
    words += ["posix", "--sidecar", str(folder / "metadata"), str(folder / "buckets")]
    (folder / "metadata").mkdir()
    with started(words, folder, f"http://{host}:{port}/", root):
        yield f"http://{host}:{port}"


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(words: Sequence[str], folder: Path, url: str, environment: Mapping[str, str]) -> Iterator[None]:
    log = folder / "log"
    with log.open("ab") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as refusal:  # 401 and 403 are answers too; 503 is a server not ready yet
        return refusal.code < 500
    except OSError:
        return False


if __name__ == "__main__":  # build them, so that no test's time is spent on that
    for name in SERVERS:
        program(name)
