"""Where the API server is and how to log in, from a kubeconfig or a service account."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from octavo_router.errors import SettingsError
from octavo_router.kubeconfig import load_access


def written(folder: Path, user: dict[str, Any], server: str = "http://127.0.0.1:8001") -> dict[str, str]:
    """An environment that points to a kubeconfig with this user."""
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(content))
    return {"KUBECONFIG": str(path)}


def test_a_token_logs_in(tmp_path: Path) -> None:
    access = load_access(written(tmp_path, {"token": "secret"}))
    assert (access.server, access.headers()) == ("http://127.0.0.1:8001", {"Authorization": "Bearer secret"})


@pytest.mark.parametrize("content", [b"\xff\xfe", "caf\u00e9".encode(), b"two words", b"two\nlines"])
def test_a_token_file_without_a_token_is_an_error_that_may_pass(tmp_path: Path, content: bytes) -> None:
    access = load_access(written(tmp_path, {"tokenFile": "token"}))
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(OSError, match=f"{tmp_path}/token holds no token"):
        access.headers()


def test_a_token_file_is_read_each_time(tmp_path: Path) -> None:
    access = load_access(written(tmp_path, {"tokenFile": "token"}))
    for token in ("first", "second"):
        (tmp_path / "token").write_text(token + "\n")
        assert access.headers() == {"Authorization": f"Bearer {token}"}


def test_without_a_user_s_secret_nothing_is_sent(tmp_path: Path) -> None:
    assert load_access(written(tmp_path, {})).headers() == {}


def test_https_is_verified(tmp_path: Path) -> None:
    access = load_access(written(tmp_path, {}, "https://127.0.0.1:6443"))
    assert isinstance(access.ssl, ssl.SSLContext)
    assert access.ssl.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "is not YAML: expected the node content"),
        ("just words", "no mapping of the right shape"),
        ("{}", "not complete: current-context is missing"),
        ("current-context: a\ncontexts: []", "contexts: a is missing"),
    ],
)
def test_an_incomplete_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(SettingsError, match=words):
        load_access({"KUBECONFIG": str(tmp_path / "config")})


def test_a_certificate_that_is_no_base64_is_told(tmp_path: Path) -> None:
    environ = written(tmp_path, {"client-certificate-data": "a"}, "https://127.0.0.1:6443")
    with pytest.raises(SettingsError, match=r"config cannot be used: .*base64"):
        load_access(environ)


def test_a_login_plugin_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="use one with a token or a certificate"):
        load_access(written(tmp_path, {"exec": {"command": "aws"}}))


def test_outside_of_a_cluster_and_without_a_file_the_sentence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="set KUBECONFIG or use --static"):
        load_access({"HOME": str(tmp_path)})


def test_inside_a_cluster_the_service_account_is_used(tmp_path: Path) -> None:
    authority = ssl.get_default_verify_paths()
    certificates = Path(authority.cafile or authority.openssl_cafile)
    (tmp_path / "ca.crt").write_bytes(certificates.read_bytes())
    (tmp_path / "token").write_text("pod-token")
    access = load_access({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)
    assert access.server == "https://[fd00::1]:443"
    assert access.headers() == {"Authorization": "Bearer pod-token"}
