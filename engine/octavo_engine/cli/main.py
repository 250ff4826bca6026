"""The command line's entry: which command runs, and how its failure reaches the user."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from octavo_engine.cli.bench import add_bench_flags, run_bench
from octavo_engine.cli.chat import add_chat_flags, run_chat
from octavo_engine.cli.flags import Parser, refuse_unbuilt, refuse_unknown, with_dashes
from octavo_engine.cli.serve import add_serve_flags, run_serve
from octavo_engine.errors import ConfigError, EngineError

_TERMINATION_LOG = Path("/dev/termination-log")


class _Command(NamedTuple):
    name: str
    help: str
    add_flags: Callable[..., None]
    run: Callable[..., None]


_COMMANDS = (
    _Command("serve", "serve a model over HTTP", add_serve_flags, run_serve),
    _Command("chat", "talk to a model in the terminal", add_chat_flags, run_chat),
    _Command("bench", "measure: serve, throughput, latency", add_bench_flags, run_bench),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a failure, 2 for a wrong setting, 130 for ctrl-C."""
    try:
        _run(with_dashes(sys.argv[1:] if arguments is None else arguments))
        return 0
    except EngineError as error:
        _tell(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str]) -> None:
    parser = Parser(prog="octavo-engine", description="Serve language models.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    parsers = {}
    for command in _COMMANDS:
        parsers[command.name] = commands.add_parser(command.name, help=command.help, allow_abbrev=False)
        command.add_flags(parsers[command.name])
    if not arguments:
        parser.print_help()
        raise ConfigError(f"Name a command: {', '.join(parsers)}.")
    refuse_unbuilt(arguments)
    known, unknown = parser.parse_known_args(arguments)
    refuse_unknown(parsers[known.command], unknown)
    next(command for command in _COMMANDS if command.name == known.command).run(known)


def _tell(sentence: str) -> None:
    """The last line on stderr, and the container's termination message where there is one."""
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201
    if _TERMINATION_LOG.exists():
        with contextlib.suppress(OSError):
            _TERMINATION_LOG.write_text(sentence + "\n", encoding="utf-8")
