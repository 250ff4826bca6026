"""Prometheus and promtool from Debian's package, unpacked and not installed."""

import json
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.cluster.container_parts import debian_release, unpack
from e2e.servers.processes import free_port, started
from images.cache import key_of, made_once


def prometheus_program(name: str, say: Callable[[str], None] = print) -> Path:
    """`prometheus` or `promtool`, fetched on first use.

    Raises:
        BuildError: this is not a Debian, or the package cannot be fetched.
    """

    def make(root: Path) -> None:
        say("fetching Prometheus from Debian (once)")
        root.mkdir()
        with tempfile.TemporaryDirectory() as downloads:
            unpack(["prometheus"], Path(downloads), root)

    return made_once("prometheus", key_of([debian_release()]), make) / "usr" / "bin" / name


@contextmanager
def prometheus(folder: Path, configuration: str) -> Iterator[str]:
    """A running Prometheus with this configuration; the value is its URL."""
    (folder / "prometheus.yml").write_text(configuration)
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    words = [str(prometheus_program("prometheus")), f"--config.file={folder}/prometheus.yml"]
    words += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    with started(words, folder, f"http://{address}/-/ready", {}):
        yield f"http://{address}"


def ask(url: str, path: str, **parameters: str) -> Any:
    """The `data` of an answer of Prometheus' HTTP API."""
    asked = f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)["data"]


def up(url: str) -> set[tuple[str, str]]:
    """Job and pod of each target that is up."""
    found = ask(url, "query", query="up == 1")["result"]
    return {(series["metric"]["job"], series["metric"]["pod"]) for series in found}
