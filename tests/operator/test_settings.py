from pathlib import Path

import pytest

from octavo_operator.errors import SettingsError
from octavo_operator.settings import Settings, defaults, read

IMAGE = {"OCTAVO_ENGINE_IMAGE": "octavo-engine:1"}


def test_one_setting_is_enough() -> None:
    assert read(IMAGE) == Settings(engine_image="octavo-engine:1")


def test_every_kind_of_setting_is_read() -> None:
    given = {
        "OCTAVO_WATCH_NAMESPACES": "a, b,",
        "OCTAVO_METRICS_API": "false",
        "OCTAVO_HTTP_PORT": "9",
        "OCTAVO_LOG_FORMAT": "json",
    }
    found = read({**IMAGE, **given, "PATH": "/bin"})
    assert (found.watch_namespaces, found.metrics_api, found.http_port) == (("a", "b"), False, 9)
    assert found.log_format == "json"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "OCTAVO_ENGINE_IMAGE is not set: name the engine's image"),
        (
            {**IMAGE, "OCTAVO_METRICS_API": "maybe"},
            "is 'maybe': give one of true, 1, false, 0",
        ),
        ({**IMAGE, "OCTAVO_HTTP_PORT": "http"}, "OCTAVO_HTTP_PORT is 'http': give a number"),
        (
            {**IMAGE, "OCTAVO_LOG_LEVEL": "loud"},
            "is 'loud': give one of debug, info, warning, error",
        ),
    ],
)
def test_a_wrong_setting_is_told(given: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read(given)


def test_pod_defaults_are_read(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text("env: [{name: A, value: '1'}]\n")
    found = defaults(read({**IMAGE, "OCTAVO_POD_DEFAULTS": str(path)}))
    assert found.pod.env == [{"name": "A", "value": "1"}]


@pytest.mark.parametrize("text", ["envv: []", "env: 1", "{"])
def test_wrong_pod_defaults_are_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match="cannot be used as a podTemplate"):
        defaults(read({**IMAGE, "OCTAVO_POD_DEFAULTS": str(path)}))


def test_empty_pod_defaults_are_none(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text("{}\n")
    assert defaults(read({**IMAGE, "OCTAVO_POD_DEFAULTS": str(path)})) == defaults(read(IMAGE))


def test_scaling_defaults_leave_a_signal(tmp_path: Path) -> None:
    path = tmp_path / "scaling.yaml"
    path.write_text("{concurrency: 0, kvCacheUsage: null}\n")
    with pytest.raises(SettingsError, match=r"switches every signal off.*give concurrency, kvCacheUsage or"):
        defaults(read({**IMAGE, "OCTAVO_SCALING_DEFAULTS": str(path)}))
    path.write_text("{concurrency: 0, kvCacheUsage: null, queueDepth: 2}\n")
    assert defaults(read({**IMAGE, "OCTAVO_SCALING_DEFAULTS": str(path)})).scaling.queue_depth == 2
