import subprocess
import sys

import pytest


def printed(code: str) -> str:
    command, environment = [sys.executable, "-c", code], {"PYTHONPATH": "operator"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


@pytest.mark.parametrize("module", ["plan", "conditions", "desired.children", "scaling.samples"])
def test_pure_modules_load_nothing_that_acts(module: str) -> None:
    acting = {"kopf", "aiohttp", "kubernetes", "torch"}
    assert printed(f"import sys, octavo_operator.{module}; print({acting} & set(sys.modules))") == "set()"


def test_the_operator_starts_without_the_kubernetes_package() -> None:
    """As in its image. Where the package is installed kopf itself imports it, at a cost of 76 MiB."""
    absent = "import sys; sys.modules['kubernetes'] = None"
    started = "import octavo_operator.__main__ as m; m.handlers.registry(None, None); print('started')"
    assert printed(f"{absent}; {started}") == "started"
