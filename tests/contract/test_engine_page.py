"""docs/engine.md tells of every flag and every metric that the engine has, and of none that it has not."""

import argparse
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from octavo_engine.cli.flags import Parser
from octavo_engine.cli.serve import add_serve_flags
from octavo_engine.messages import EngineStats
from octavo_engine.server.metrics import Metrics
from octavo_engine.server.protocol import UNBUILT, ChatRequest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "engine.md").read_text()


def test_the_page_names_each_flag_of_serve() -> None:
    parser = Parser(prog="octavo-engine serve", allow_abbrev=False)
    add_serve_flags(parser)
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    flags = {action.option_strings[0] for action in shown if action.option_strings} - {"-h"}
    section = PAGE.split("## Flags")[1].split("\n## ")[0]
    assert {flag for flag in re.findall(r"`(--[a-z-]+)`", section) if "--no-" not in flag} == flags


def test_the_page_names_each_field_that_is_refused() -> None:
    table = PAGE.partition("| what | fields |")[2].partition("There are no")[0]
    named = set(re.findall(r"`([a-z_]+)`", table))
    assert {*UNBUILT, *ChatRequest.unbuilt} - named == set()


def test_the_page_names_each_metric() -> None:
    exposed = Metrics("m", EngineStats).render().decode()
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(exposed)
        if not family.name.endswith("_created")
    }
    section = PAGE.split("## Metrics")[1].split("\n## ")[0]
    assert set(re.findall(r"`(octavo_[a-z0-9_]+)`", section)) == families
