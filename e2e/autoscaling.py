"""Behaviours of an HPA that do not make a case wait."""

from typing import Any

UP_AT_ONCE: dict[str, Any] = {"scaleUp": {"stabilizationWindowSeconds": 0}}


def down_at_once(pods: int) -> dict[str, Any]:
    """So many pods a second go as soon as they are not needed."""
    policy = {"type": "Pods", "value": pods, "periodSeconds": 1}
    return {"scaleDown": {"stabilizationWindowSeconds": 0, "policies": [policy]}}
