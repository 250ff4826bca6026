"""Engine pods that are whole but for the model: `paced/paced_runner.py` takes its place."""

from pathlib import Path
from typing import Any

from images.base import CODE, MOUNTED_SITE

FOLDER = Path(__file__).with_name("paced")
# Parts of an LLMDeployment's spec.
PACED: dict[str, Any] = {
    "resources": {"cpu": "50m", "memory": "1Gi"},
    "engine": {
        "maxNumSeqs": 256,
        "extraArgs": ["--runner=paced_runner:PacedRunner"],
        "env": [{"name": "PYTHONPATH", "value": f"/paced:{CODE}:{MOUNTED_SITE}"}],
    },
    "podTemplate": {
        "volumes": [{"name": "paced", "hostPath": {"path": str(FOLDER), "type": "Directory"}}],
        "volumeMounts": [{"name": "paced", "mountPath": "/paced", "readOnly": True}],
    },
}
# The same of two pods a replica, which meet where Ray's head would be.
PACED_GROUP: dict[str, Any] = {
    **PACED,
    "parallelism": {"pipeline": 2, "pods": 2},
    "engine": {**PACED["engine"], "extraArgs": ["--runner=paced_runner:PacedGroup"]},
}
