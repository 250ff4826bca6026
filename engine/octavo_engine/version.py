"""Which Octavo this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The installed distribution's version."""
    try:
        return version("octavo")
    except PackageNotFoundError:  # run from a source tree
        return "0.1.0"
