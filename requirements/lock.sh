#!/usr/bin/env bash
# Pins every dependency with hashes, without naming an index: requirements/{dev,engine,operator,router}.lock.
set -euo pipefail
cd "$(dirname "$0")/.."
lock() { .venv/bin/uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-header -c requirements/pins.txt "$@"; }
lock --extra engine --extra operator --extra router --group dev -o requirements/dev.lock
for part in engine operator router; do lock --extra "$part" -o "requirements/$part.lock"; done
