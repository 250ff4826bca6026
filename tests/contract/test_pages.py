"""The pages name what is there, and nothing that is not: variables, metrics, flags, fields, files."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from manifests.render import CHART
from prometheus_client.metrics_core import Metric

from octavo_engine.cli import bench, chat, fetch, flags, join, serve
from octavo_engine.messages import EngineStats
from octavo_engine.server.metrics import Metrics
from octavo_operator.resource_metrics import ResourceCollector
from octavo_operator.settings import Settings as OperatorSettings
from octavo_operator.telemetry import Telemetry
from octavo_router.metrics import Figures, RouterCollector
from octavo_router.settings import Settings as RouterSettings

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", CHART / "README.md", *(ROOT / "docs").rglob("*.md")]
PAGES = {str(file.relative_to(ROOT)): file.read_text() for file in sorted(FILES)}
OPERATOR = PAGES["docs/operator.md"]
every_page = pytest.mark.parametrize("name", list(PAGES))


def section(page: str, heading: str) -> str:
    return page.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of a table."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_the_operators_page_lists_every_setting_with_its_default() -> None:
    told = {cells[0].strip("`"): cells[-1].strip("`") for cells in rows(section(OPERATOR, "Settings"))}
    fields = {f"OCTAVO_{field.name.upper()}": field for field in msgspec.structs.fields(OperatorSettings)}
    assert told.keys() == fields.keys()
    in_words = ("", (), msgspec.NODEFAULT)
    defaults = {name: str(f.default).lower() for name, f in fields.items() if f.default not in in_words}
    assert {name: told[name] for name in defaults} == defaults


def names_of(families: Iterator[Metric] | list[Metric]) -> set[str]:
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families
        if family.name.startswith("octavo_")
    }


def operator_metrics() -> set[str]:
    telemetry = Telemetry()
    telemetry.registry.register(ResourceCollector(lambda: [], lambda: []))
    return names_of(list(telemetry.registry.collect()))


def router_metrics() -> set[str]:
    return names_of(RouterCollector(Figures).collect())


def engine_metrics() -> set[str]:
    exposed = Metrics("m", EngineStats).render().decode()
    return set(re.findall(r"^# TYPE (octavo_\w+)", exposed, re.MULTILINE))


def test_the_operators_page_lists_every_metric() -> None:
    listed = {cells[0].strip("`").split("{")[0] for cells in rows(section(OPERATOR, "Metrics"))}
    assert listed == operator_metrics()


def test_the_routers_page_lists_every_metric() -> None:
    text = section(PAGES["docs/router.md"], "Metrics")
    short = {f"octavo_router{name}" for name in re.findall(r"`(_[a-z_]+)", text)}
    assert set(re.findall(r"`(octavo_router_[a-z_]+)", text)) | short == router_metrics()


@every_page
def test_a_metric_that_is_named_exists(name: str) -> None:
    known = operator_metrics() | router_metrics() | engine_metrics()
    named = set(re.findall(r"`(?:pods/)?(octavo_[a-z0-9_]+[a-z0-9])", PAGES[name]))
    parts = {"octavo_engine", "octavo_operator", "octavo_router"}
    suffixes = ("_bucket", "_count", "_sum")
    assert {n for n in named if n not in known | parts and not n.endswith(suffixes)} == set()


@every_page
def test_a_variable_that_is_named_is_read_somewhere(name: str) -> None:
    named = set(re.findall(r"OCTAVO_[A-Z_]+[A-Z]", PAGES[name]))
    settings = {f"OCTAVO_{field.upper()}" for field in RouterSettings.model_fields}
    settings |= {f"OCTAVO_{field.name.upper()}" for field in msgspec.structs.fields(OperatorSettings)}
    assert {variable for variable in named - settings if not _in_code(variable)} == set()


def _in_code(variable: str) -> bool:
    folders = ("engine", "operator", "router", "images", "e2e")
    sources = (file.read_text() for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return any(re.search(rf'"{variable}"|\$\(?{variable}\b', source) for source in sources)


def engine_flags() -> set[str]:
    parser = flags.Parser(allow_abbrev=False)
    serve.add_serve_flags(parser)
    known = set(parser.flags())
    for add in (bench.add_bench_flags, chat.add_chat_flags, fetch.add_fetch_flags, join.add_join_flags):
        parser = flags.Parser(allow_abbrev=False)
        add(parser)
        known |= set(parser.flags())
    return known


@every_page
def test_a_flag_of_the_engine_that_is_named_exists(name: str) -> None:
    lines = re.findall(r"octavo-engine [^`\n]*", PAGES[name])
    named = {flag for line in lines for flag in re.findall(r"--[a-z][a-z-]+", line)}
    if name in ("README.md", "docs/engine.md", "docs/models.md"):  # all of whose flags are the engine's
        named |= set(re.findall(r"`(--[a-z][a-z-]+)[ =`]", PAGES[name]))
    assert named - engine_flags() == set()


def fields_of(schema: dict[str, Any]) -> Iterator[str]:
    """Top-level fields, and those inside of which the page names each."""
    for name, node in schema["properties"].items():
        yield name
        if name not in {"engine", "podTemplate"}:  # told by the engine's flags, and by the API of pods
            yield from node.get("properties", {})


def test_the_operators_page_names_every_field_of_the_spec(crd: dict[str, Any]) -> None:
    text = section(OPERATOR, "The resource")
    named = {part for cell in re.findall(r"`([^`]+)`", text) for part in re.split(r"[^A-Za-z]+", cell)}
    assert [field for field in fields_of(crd["spec"]) if field not in named] == []


@every_page
def test_a_link_leads_to_a_file_and_a_heading(name: str) -> None:
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (folder / path) if path else ROOT / name
        assert file.exists(), target
        if heading:
            assert heading in _anchors(file.read_text()), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_a_file_of_the_repository_that_is_named_exists(name: str) -> None:
    top = "|".join(sorted(entry.name for entry in ROOT.iterdir() if entry.is_dir() and entry.name[0] != "."))
    named = re.findall(rf"`((?:{top})/[a-z0-9_./-]+)`", PAGES[name])  # in capitals: to be filled in
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_target_of_make_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    named = {target for page in PAGES.values() for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", page)}
    assert named - targets == set()


def test_every_value_of_the_chart_that_is_named_exists() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    roots = "|".join(values.keys() - {"engine"})  # spec.engine has that name too
    for name, page in PAGES.items():
        for path in re.findall(rf"`((?:{roots})(?:\.[a-zA-Z]+)+)(?:=[^`]*)?`", page):
            node = values
            for step in path.split("."):
                if node == {}:  # for a user to fill
                    break
                assert step in node, f"{name}: {path}"
                node = node[step]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def unknown_fields(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Fields that the CRD would prune."""
    if schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema:
        return
    for name, inner in value.items() if isinstance(value, dict) else ():
        known = schema.get("properties", {})
        if name in known:
            yield from unknown_fields(inner, known[name], f"{path}.{name}")
        else:
            yield f"{path}.{name}"


@every_page
def test_a_resource_that_is_shown_has_only_fields_of_the_crd(name: str, crd: dict[str, Any]) -> None:
    shown = [each for block in blocks(PAGES[name], "yaml") for each in yaml.safe_load_all(block)]
    specs = [each["spec"] for each in shown if isinstance(each, dict) and each.get("kind") == "LLMDeployment"]
    assert [field for spec in specs for field in unknown_fields(spec, crd["spec"])] == []


@every_page
def test_python_that_is_shown_imports_what_is_there(name: str) -> None:
    for block in blocks(PAGES[name], "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("octavo_"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
