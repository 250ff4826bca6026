"""Probes that are patient while a model loads and quick once it serves."""

from typing import Any

from octavo_operator.names import PORT_NAME

STARTUP_PERIOD = 2  # seconds: a small model is served soon after it has loaded


def probes(startup_seconds: int) -> dict[str, Any]:
    """The three probes of the engine's container.

    Until /health first says 200 only the startup probe counts. Readiness follows /health (draining and hung
    pods get no requests); liveness asks the part of it that fails only when the process cannot recover.
    """
    return {
        "startupProbe": {
            "httpGet": _get("/health"),
            "periodSeconds": STARTUP_PERIOD,
            "timeoutSeconds": 2,
            "failureThreshold": max(1, -(-startup_seconds // STARTUP_PERIOD)),
        },
        "readinessProbe": {
            "httpGet": _get("/health"),
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "httpGet": _get("/health?probe=live"),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }


def _get(path: str) -> dict[str, Any]:
    return {"path": path, "port": PORT_NAME, "scheme": "HTTP"}
