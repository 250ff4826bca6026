"""How to reach the API server: the service account inside a cluster, or a kubeconfig file outside."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from octavo_router.authority import authority
from octavo_router.errors import SettingsError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Access:
    """Where the API server is and how to log in. `token` is asked for each request: tokens are renewed."""

    server: str
    ssl: ssl.SSLContext | bool
    token: Callable[[], str | None]

    def headers(self) -> dict[str, str]:
        token = self.token()
        return {"Authorization": f"Bearer {token}"} if token else {}


def load_access(environ: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> Access:
    """KUBECONFIG when it is set, else the service account, else ~/.kube/config. Raises SettingsError."""
    if not environ.get("KUBECONFIG") and (host := environ.get("KUBERNETES_SERVICE_HOST")):
        port = environ.get("KUBERNETES_SERVICE_PORT", "443")
        try:
            context = ssl.create_default_context(cafile=str(account / "ca.crt"))
        except OSError as error:
            raise SettingsError(
                f"The service account's {account / 'ca.crt'} cannot be used: {error}."
            ) from None
        return Access(f"https://{authority(host, port)}", context, _file_token(account / "token"))
    default = Path(environ.get("HOME", "/")) / ".kube" / "config"
    return read_kubeconfig(Path((environ.get("KUBECONFIG") or str(default)).split(os.pathsep)[0]))


def read_kubeconfig(path: Path) -> Access:
    """The current context of a kubeconfig file. Raises SettingsError."""
    try:
        content = yaml.safe_load(path.read_text())
        context = _named(content, "contexts", content["current-context"])["context"]
        cluster = _named(content, "clusters", context["cluster"])["cluster"]
        user = _named(content, "users", context["user"])["user"]
        return Access(cluster["server"], _ssl(cluster, user, path.parent), _token(user, path))
    except OSError as error:
        why = error.strerror or str(error)
        raise SettingsError(
            f"The kubeconfig {path} cannot be used ({why}); set KUBECONFIG or use --static."
        ) from None
    except yaml.YAMLError as error:
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        raise SettingsError(f"The kubeconfig {path} is not YAML: {problem}.") from None
    except KeyError as error:
        raise SettingsError(f"The kubeconfig {path} is not complete: {error.args[0]} is missing.") from None
    except ValueError as error:  # such as a certificate that is no base64
        raise SettingsError(f"The kubeconfig {path} cannot be used: {error}.") from None
    except TypeError:
        raise SettingsError(
            f"The kubeconfig {path} is not complete: it is no mapping of the right shape."
        ) from None


def _named(content: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    found = [entry for entry in content[kind] if entry["name"] == name]
    if not found:
        raise KeyError(f"{kind}: {name}")
    entry: dict[str, Any] = found[0]
    return entry


def _ssl(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> ssl.SSLContext | bool:
    if not str(cluster["server"]).startswith("https://"):
        return False
    authority = _content(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = _content(user, "client-certificate", folder)
    key = _content(user, "client-key", folder)
    if certificate and key:
        with tempfile.NamedTemporaryFile() as file:  # the ssl module reads keys from files only
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _content(entry: dict[str, Any], name: str, folder: Path) -> bytes | None:
    if data := entry.get(f"{name}-data"):
        return base64.b64decode(data)
    return (folder / entry[name]).read_bytes() if entry.get(name) else None


def _token(user: dict[str, Any], path: Path) -> Callable[[], str | None]:
    if "exec" in user or "auth-provider" in user:
        raise SettingsError(
            f"The kubeconfig {path} logs in by a plugin; use one with a token or a certificate."
        )
    if file := user.get("tokenFile"):
        return _file_token(path.parent / file)
    return lambda: user.get("token")


def _file_token(path: Path) -> Callable[[], str | None]:
    """Raises OSError, after which it is asked again: a file may be half written."""

    def read() -> str:
        token = path.read_bytes().strip()
        if not token.isascii() or len(token.split()) > 1:
            raise OSError(f"{path} holds no token: one word of ASCII is expected")
        return token.decode()

    return read
