"""``python -m octavo_engine`` and the command ``octavo-engine``."""

import sys

from octavo_engine.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
