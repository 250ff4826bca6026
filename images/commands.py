"""Running other programs, whose failure is said in one sentence."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from images.errors import BuildError

SHOWN_CHARACTERS = 600


def run(words: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What the command printed.

    Raises:
        BuildError: it failed; the text has the command and the end of what it said.
    """
    try:
        done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError(f"the command {words[0]} is missing: install it and try again") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-SHOWN_CHARACTERS:]
        raise BuildError(f"`{_shortened(words)}` failed: {said}")
    return done.stdout


def _shortened(words: Sequence[str | Path]) -> str:
    line = shlex.join([Path(words[0]).name, *map(str, words[1:])])
    return line if len(line) <= SHOWN_CHARACTERS // 4 else f"{line[: SHOWN_CHARACTERS // 4]} ..."
