"""`octavo-operator`: reads its settings from the environment and runs until it is told to end."""

import argparse
import gc
import importlib.metadata
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping

import kopf
import uvloop
import yaml

from octavo_operator import handlers
from octavo_operator.api_client import Access
from octavo_operator.controller import running
from octavo_operator.errors import OctavoError, SettingsError
from octavo_operator.settings import Settings, read, variables

RENEWAL_SECONDS = 60.0
# What kopf raises for a kubeconfig that is missing, no YAML, no mapping, or not complete.
_UNUSABLE = (OSError, UnicodeError, yaml.YAMLError, kopf.LoginError, KeyError, AttributeError, TypeError)
# The caches are large and hold no cycles: looking for those cost a tenth of a restart.
COLLECT_AFTER = (50_000, 20, 50)


def main() -> None:
    """Exit with 0 after SIGTERM, with 2 when a setting is wrong."""
    _parser().parse_args()
    gc.set_threshold(*COLLECT_AFTER)
    failed: list[BaseException] = []
    try:
        settings = read(os.environ)
        _log_to_stderr(settings)
        uvloop.run(run(settings, _connection()))
    except* OctavoError as errors:
        failed.extend(_leaves(errors))
    if failed:
        print(f"octavo-operator: {failed[0]}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(failed[0], SettingsError) else 1)


def _parser() -> argparse.ArgumentParser:
    """No flags but those that every program has: a pod's settings are its environment."""
    parser = argparse.ArgumentParser(
        prog="octavo-operator",
        description="Makes Kubernetes objects of LLMDeployments, in the cluster of KUBECONFIG or its own.",
        epilog="Settings are environment variables, which docs/operator.md explains: "
        f"{', '.join(variables())}.",
    )
    version = importlib.metadata.version("octavo")
    parser.add_argument("--version", action="version", version=f"octavo-operator {version}")
    return parser


async def run(settings: Settings, login: kopf.ConnectionInfo) -> None:
    """The operator's whole life."""
    async with running(settings, access_by(login)) as operator:
        await kopf.operator(
            registry=handlers.registry(login, operator.stop),
            settings=handlers.settings(),
            clusterwide=True,
            ready_flag=operator.begun,
        )


class Renewed:
    """The login's headers, read again once a minute: the kubelet renews a pod's token on disk."""

    def __init__(self, login: kopf.ConnectionInfo) -> None:
        self._headers: Mapping[str, str] = login.as_http_headers()
        self._until = time.monotonic() + RENEWAL_SECONDS

    def __call__(self) -> Mapping[str, str]:
        if time.monotonic() > self._until:
            if login := handlers.connection():
                self._headers = login.as_http_headers()
            self._until = time.monotonic() + RENEWAL_SECONDS
        return self._headers


def access_by(login: kopf.ConnectionInfo) -> Access:
    """The same access for the operator's own requests."""
    return Access(login.server, login.as_ssl_context(), Renewed(login))


def _connection() -> kopf.ConnectionInfo:
    try:
        found = handlers.connection()
    except _UNUSABLE as error:
        file = os.environ.get("KUBECONFIG") or "~/.kube/config"
        told = f"it names {error}, which is not in it" if isinstance(error, KeyError) else error
        reason = " ".join(str(told).split())
        raise SettingsError(f"the kubeconfig {file} cannot be used: {reason}") from error
    if found is None:
        raise SettingsError("no cluster: run in a pod with a ServiceAccount, or set KUBECONFIG")
    return found


def _log_to_stderr(settings: Settings) -> None:
    form = kopf.LogFormat.JSON if settings.log_format == "json" else kopf.LogFormat.FULL
    kopf.configure(debug=settings.log_level == "debug", log_format=form)
    logging.getLogger().setLevel(settings.log_level.upper())


def _leaves(errors: BaseExceptionGroup[OctavoError]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
