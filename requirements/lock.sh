#!/usr/bin/env bash
# Pins every dependency with hashes, without naming an index: requirements/{dev,engine,operator,router,ray}.lock.
set -euo pipefail
cd "$(dirname "$0")/.."
lock() { .venv/bin/uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-header -c requirements/pins.txt "$@"; }
lock --extra engine --extra operator --extra router --extra ray --group dev -o requirements/dev.lock
for part in engine operator router; do lock --extra "$part" -o "requirements/$part.lock"; done
lock --extra engine --extra ray -o requirements/ray.lock
