"""Says which packages of the engine are missing here, and fails when any is.

Usage: python bench/needs.py [--tests]. Prints one line a package: how it is imported and how it is installed.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

ENGINE = {
    "fastapi": "fastapi",
    "gguf": "gguf",
    "httptools": "httptools",
    "jinja2": "jinja2",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "pynvml": "nvidia-ml-py",
    "prometheus_client": "prometheus-client",
    "pydantic": "pydantic",
    "rich": "rich",
    "safetensors": "safetensors",
    "starlette": "starlette",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "tqdm": "tqdm",
    "triton": "triton",
    "uvicorn": "uvicorn",
    "uvloop": "uvloop",
    "xxhash": "xxhash",
    "zmq": "pyzmq",
}
TESTS = {
    "httpx": "httpx",
    "hypothesis": "hypothesis",
    "psutil": "psutil",
    "pytest": "pytest",
    "pytest_asyncio": "pytest-asyncio",
    "pytest_timeout": "pytest-timeout",
    "transformers": "transformers",
    "xdist": "pytest-xdist",
}


def main(arguments: list[str]) -> int:
    wanted = ENGINE | (TESTS if "--tests" in arguments else {})
    missing = {module: package for module, package in wanted.items() if find_spec(module) is None}
    for module, package in missing.items():
        print(f"missing: {module} (pip install {package})", file=sys.stderr)
    if missing:
        print(f"Install these first: {' '.join(sorted(missing.values()))}", file=sys.stderr)
    return 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
