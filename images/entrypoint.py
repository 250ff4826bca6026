#!/usr/bin/env python3
"""The command of an image: a copy of this file called octavo-NAME runs the part octavo_NAME."""

import sys
from importlib import import_module
from pathlib import Path

part = Path(sys.argv[0]).name.removeprefix("octavo-")
sys.exit(import_module(f"octavo_{part}.__main__").main())
