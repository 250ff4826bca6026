"""The documents of the custom metrics API, v1beta1 and v1beta2. Pure."""

import datetime
import math
from collections.abc import Iterable
from typing import Any

import msgspec

from octavo_operator.scaling.samples import METRICS, WINDOW

GROUP = "custom.metrics.k8s.io"
VERSIONS = ("v1beta2", "v1beta1")


class Value(msgspec.Struct, frozen=True):
    """One pod's value; `at` is Unix time in seconds."""

    namespace: str
    pod: str
    metric: str
    value: float
    at: float


def discovery(version: str) -> dict[str, Any]:
    """The APIResourceList of a version."""
    resources = [
        {
            "name": f"pods/{metric}",
            "singularName": "",
            "namespaced": True,
            "kind": "MetricValueList",
            "verbs": ["get"],
        }
        for metric in METRICS
    ]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{GROUP}/{version}",
        "resources": resources,
    }


def group() -> dict[str, Any]:
    """The APIGroup."""
    versions = [{"groupVersion": f"{GROUP}/{v}", "version": v} for v in VERSIONS]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def value_list(version: str, values: Iterable[Value]) -> dict[str, Any]:
    """What is no number, or none that a quantity can tell, is left out: it is one pod's trouble."""
    items = [_item(version, value) for value in values if math.isfinite(value.value * 1000)]
    return {"kind": "MetricValueList", "apiVersion": f"{GROUP}/{version}", "metadata": {}, "items": items}


def failure(code: int, reason: str, message: str) -> dict[str, Any]:
    """A Status as the API server answers errors."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def quantity(value: float) -> str:
    """The value as a Kubernetes quantity, in thousandths."""
    thousandths = round(value * 1000)
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def _item(version: str, found: Value) -> dict[str, Any]:
    named: dict[str, Any] = (
        {"metricName": found.metric} if version == "v1beta1" else {"metric": {"name": found.metric}}
    )
    moment = datetime.datetime.fromtimestamp(found.at, datetime.UTC)
    return {
        "describedObject": {
            "kind": "Pod",
            "namespace": found.namespace,
            "name": found.pod,
            "apiVersion": "/v1",
        },
        **named,
        "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "windowSeconds": WINDOW,
        "value": quantity(found.value),
    }
