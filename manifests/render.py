"""Write what is generated from other files: the chart's CRDs and values table, and the plain install.

Run from the repository's root: `python -m manifests.render`, with `--check` to only say what has drifted.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from e2e.cluster.go_programs import program

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "octavo"
INSTALL = ROOT / "manifests" / "install"
MONITORING = ROOT / "manifests" / "monitoring"
PARTS_OF_MONITORING = ("monitors", "rules", "board")
NAMESPACE = "octavo-system"
BEGIN, END = "<!-- values: made by manifests/render.py -->", "<!-- end of values -->"
HEADER = "# Made from the chart by `make manifests`; change the chart instead.\n"
HELM_ONLY_LABELS = ("app.kubernetes.io/managed-by", "helm.sh/chart")


def generated() -> dict[Path, str]:
    """The content of every generated file, by path."""
    crds = {path.name: path.read_text() for path in sorted((ROOT / "crds").glob("*.yaml"))}
    readme = CHART / "README.md"
    return {
        **{CHART / "files" / "crds" / name: text for name, text in crds.items()},
        readme: _with_table(readme.read_text(), values_table()),
        INSTALL / "crds.yaml": HEADER + "---\n".join(crds.values()),
        INSTALL / "octavo.yaml": HEADER + _dumped(plain_objects()),
        **{MONITORING / f"{part}.yaml": HEADER + _dumped(monitoring(part)) for part in PARTS_OF_MONITORING},
    }


def monitoring(part: str) -> list[dict[str, Any]]:
    """The objects that one part of the chart's monitoring adds."""
    without = plain_objects()
    return [item for item in plain_objects(f"monitoring.{part}.enabled=true") if item not in without]


def _dumped(objects: list[dict[str, Any]]) -> str:
    return yaml.safe_dump_all(objects, sort_keys=False, width=110)


def plain_objects(*settings: str) -> list[dict[str, Any]]:
    """The chart's objects with default values, without the CRDs and without Helm's own labels."""
    flags = ["--namespace", NAMESPACE, "--kube-version", "1.34.0", "--set", "crds.install=false"]
    flags += [part for setting in settings for part in ("--set", setting)]
    command: list[str | Path] = [program("helm"), "template", "octavo", CHART, *flags]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    objects: list[dict[str, Any]] = [item for item in yaml.safe_load_all(rendered) if item]
    for item in objects:
        for label in HELM_ONLY_LABELS:
            item["metadata"]["labels"].pop(label, None)
    return objects


def values_table() -> str:
    """A Markdown table of every value: path, default, meaning."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = [
        f"| `{path}` | `{json.dumps(value)}` | {text} |" for path, value, text in _leaves(schema, defaults)
    ]
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *rows])


def _leaves(schema: dict[str, Any], defaults: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    def walk(path: str, node: dict[str, Any], value: Any) -> Iterator[tuple[str, Any, str]]:
        text = node.get("description")
        if "$ref" in node:
            node = schema["definitions"][node["$ref"].rsplit("/", 1)[-1]]
        text = text or node.get("description")
        if text:
            yield path, value, text
            return
        for name, child in node.get("properties", {}).items():
            if name in (value or {}):
                yield from walk(f"{path}.{name}".lstrip("."), child, value[name])

    return walk("", schema, defaults)


def _with_table(readme: str, table: str) -> str:
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str]) -> int:
    """Write the files that differ, or with `--check` name them and return 1."""
    drifted = {
        path: text for path, text in generated().items() if not path.exists() or path.read_text() != text
    }
    for path, text in drifted.items():
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return int("--check" in arguments and bool(drifted))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
