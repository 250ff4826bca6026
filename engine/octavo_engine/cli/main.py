"""The command line's entry: which command runs, and how its failure reaches the user."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from octavo_engine.cli.flags import Parser, refuse_unbuilt, refuse_unknown, with_dashes
from octavo_engine.errors import ConfigError, EngineError
from octavo_engine.version import installed_version

_TERMINATION_LOG = Path("/dev/termination-log")


class _Command(NamedTuple):
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


# Each command imports what it needs when it is chosen: `serve` must be quick to start.
def _serve() -> _Command:
    from octavo_engine.cli.serve import add_serve_flags, run_serve

    return _Command(add_serve_flags, run_serve)


def _chat() -> _Command:
    from octavo_engine.cli.chat import add_chat_flags, run_chat

    return _Command(add_chat_flags, run_chat)


def _bench() -> _Command:
    from octavo_engine.cli.bench import add_bench_flags, run_bench

    return _Command(add_bench_flags, run_bench)


def _fetch() -> _Command:
    from octavo_engine.cli.fetch import add_fetch_flags, run_fetch

    return _Command(add_fetch_flags, run_fetch)


def _join() -> _Command:
    from octavo_engine.cli.join import add_join_flags, run_join

    return _Command(add_join_flags, run_join)


_COMMANDS: dict[str, tuple[str, Callable[[], _Command]]] = {
    "serve": ("serve a model over HTTP", _serve),
    "join": ("give this node's GPUs to an engine over several nodes", _join),
    "fetch": ("download a model into a cache", _fetch),
    "chat": ("talk to a model in the terminal", _chat),
    "bench": ("measure: serve, throughput, latency, prefix, mixed", _bench),
}


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
    name, *rest = arguments or [""]
    if name in ("-h", "--help"):
        print(_usage())  # noqa: T201
    elif name in ("-V", "--version"):
        print(f"octavo-engine {installed_version()}")  # noqa: T201
    elif name not in _COMMANDS:
        near = difflib.get_close_matches(name, _COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"name one of {', '.join(_COMMANDS)}."
        raise ConfigError(f"Unknown command {name}; {hint}" if name else f"No command is given; {hint}")
    else:
        _run_command(name, rest)


def _run_command(name: str, arguments: list[str]) -> None:
    refuse_unbuilt(arguments)
    command = _COMMANDS[name][1]()
    parser = Parser(prog=f"octavo-engine {name}", description=_COMMANDS[name][0], allow_abbrev=False)
    command.add_flags(parser)
    known, unknown = parser.parse_known_args(arguments)
    refuse_unknown(parser, unknown)
    command.run(known)


def _usage() -> str:
    lines = [f"  {name:8}{about}" for name, (about, _) in _COMMANDS.items()]
    return "\n".join(["usage: octavo-engine COMMAND [FLAGS]", "", *lines, "", "octavo-engine COMMAND --help"])


def _tell(sentence: str) -> None:
    """The last line on stderr, and the container's termination message where there is one."""
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201
    if _TERMINATION_LOG.exists():
        with contextlib.suppress(OSError):
            _TERMINATION_LOG.write_text(sentence + "\n", encoding="utf-8")
