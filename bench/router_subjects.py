"""The routers that bench.router measures: this one, and its peers where they can be had here.

nginx comes from PATH or, unpacked, from Debian; the two Rust routers, under round robin, from PyPI into an
environment of their own in the cache folder. A peer that cannot be had is left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("OCTAVO_CACHE") or Path.home() / ".cache" / "octavo") / "router-peers"
PYPI = ("sglang-router==0.3.2", "vllm-router==0.1.17")


@dataclass(frozen=True)
class Place:
    """Where a router is to run, and the pods it is to serve."""

    port: int
    admin_port: int
    pods: list[str]  # URLs
    folder: Path

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True)
class Subject:
    """One router: how it is started, and where it says that it is ready."""

    name: str
    command: Callable[[Place], list[str]]
    ready: Callable[[Place], str]
    environ: Callable[[Place], Mapping[str, str]] = field(default=lambda place: {})


def _octavo(place: Place) -> list[str]:
    models = {"bench": {"urls": place.pods}}
    return [
        sys.executable,
        "-m",
        "octavo_router",
        "--static",
        place.write("m.yaml", json.dumps({"models": models})),
    ]


def _octavo_environ(place: Place) -> Mapping[str, str]:
    return {
        "OCTAVO_HOST": "127.0.0.1",
        "OCTAVO_PORT": str(place.port),
        "OCTAVO_ADMIN_PORT": str(place.admin_port),
        "OCTAVO_LOG_LEVEL": "error",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "router"), os.environ.get("PYTHONPATH", "")]),
    }


def _with_policy(policy: str) -> Callable[[Place], Mapping[str, str]]:
    return lambda place: {**_octavo_environ(place), "OCTAVO_POLICY": policy}


def _admin(place: Place) -> str:
    return f"http://127.0.0.1:{place.admin_port}/readyz"


OCTAVO = Subject("octavo", _octavo, _admin, _with_policy("prefix"))
LEAST_LOAD = Subject("octavo-least-load", _octavo, _admin, _with_policy("least-load"))

_NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 20000; }}
http {{
  access_log off; client_max_body_size 0; client_body_buffer_size 512k; keepalive_requests 1000000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream pods {{ {servers} keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://pods; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def nginx_program() -> str | None:
    """nginx from PATH, or unpacked from Debian's package into the cache; None where neither is to be had."""
    found = shutil.which("nginx")
    unpacked = CACHE / "nginx" / "usr" / "sbin" / "nginx"
    if found or unpacked.exists():
        return found or str(unpacked)
    if shutil.which("apt-get") is None:
        return None
    folder = CACHE / "nginx"
    folder.mkdir(parents=True, exist_ok=True)
    for command in (["apt-get", "update", "-q"], ["apt-get", "download", "-q", "nginx"]):
        if subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=False).returncode:
            return None
    subprocess.run(["dpkg", "-x", *map(str, folder.glob("nginx_*.deb")), str(folder)], check=True)
    return str(unpacked)


def _nginx(program: str) -> Subject:
    def command(place: Place) -> list[str]:
        servers = " ".join(f"server {url.removeprefix('http://')};" for url in place.pods)
        text = _NGINX.format(folder=place.folder, servers=servers, port=place.port)
        return [program, "-p", str(place.folder), "-c", place.write("nginx.conf", text)]

    return Subject("nginx", command, lambda place: f"http://127.0.0.1:{place.port}/health")


def _rust_python() -> str | None:
    """The Python of an environment with the two Rust routers; None where they cannot be installed."""
    python = CACHE / "venv" / "bin" / "python"
    if not (CACHE / "installed").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        uv = Path(sys.executable).parent / "uv"
        for command in (
            [str(uv), "venv", "-q", "--clear", str(CACHE / "venv")],
            [str(uv), "pip", "install", "-q", "--python", str(python), *PYPI],
        ):
            if subprocess.run(command, check=False).returncode:
                return None
        (CACHE / "installed").touch()
    return str(python)


def _rust(name: str, module: str, python: str) -> Subject:
    def command(place: Place) -> list[str]:
        at = ["--host", "127.0.0.1", "--port", str(place.port), "--prometheus-port", str(place.admin_port)]
        how = ["--policy", "round_robin", "--log-level", "error"]
        return [python, "-m", module, *at, *how, "--worker-urls", *place.pods]

    return Subject(name, command, lambda place: f"http://127.0.0.1:{place.port}/readiness")


def peers() -> list[Subject]:
    """The peers that can run here."""
    found = []
    if program := nginx_program():
        found.append(_nginx(program))
    if python := _rust_python():
        found.append(_rust("sglang-router", "sglang_router.launch_router", python))
        found.append(_rust("vllm-router", "vllm_router.launch_router", python))
    return found
