"""Spec -> the engine's pod template."""

from typing import Any

from octavo_operator.api import LLMDeployment, Passthrough, PodTemplate, Resources, Scheduling, Spec
from octavo_operator.desired.arguments import arguments
from octavo_operator.desired.download import fetch_container
from octavo_operator.desired.group import GROUP_CONTAINER_PORT, GROUP_ENV, affinity, network
from octavo_operator.desired.meta import Defaults, Manifest, by, digest, labels, selector
from octavo_operator.desired.probes import probes
from octavo_operator.desired.source import MODELS_PATH, is_downloaded, is_image, model_volume
from octavo_operator.names import CONTAINER, GROUP_LABEL, PORT, PORT_NAME, TEMPLATE_ANNOTATION

USER = 65532
ENDPOINT_SECONDS = 5
"""How long a pod that is to end goes on serving, until routers and kube-proxies have seen that it leaves."""
EXIT_SECONDS = 10
"""What the engine may take beyond its drain timeout."""
OWN_MOUNTS: tuple[Manifest, ...] = (
    {"name": "tmp", "mountPath": "/tmp"},
    {"name": "shm", "mountPath": "/dev/shm"},
)


def pod_template(llmd: LLMDeployment, defaults: Defaults, group: str = "") -> Manifest:
    """The pod template; its annotation tells pods of this template from older ones.

    `group` is the name of the group that the pods belong to, which the annotation knows nothing of.
    """
    overlay = merged(defaults.pod, llmd.spec.pod_template)
    metadata: Manifest = {"labels": {**overlay.metadata.labels, **labels(llmd.metadata.name)}}
    template = {"metadata": metadata, "spec": pod_spec(llmd, defaults, overlay)}
    metadata["annotations"] = {**overlay.metadata.annotations}
    near = affinity(llmd.spec, "any group") if group else None
    metadata["annotations"][TEMPLATE_ANNOTATION] = digest({**template, "near": near} if near else template)
    if group:
        metadata["labels"][GROUP_LABEL] = group
        template["spec"]["affinity"] = affinity(llmd.spec, group)
    return template


def merged(under: PodTemplate, over: PodTemplate) -> PodTemplate:
    """`over` laid over `under`: maps by key, lists by name (mounts by path)."""
    meta_under, meta_over = under.metadata, over.metadata
    return PodTemplate(
        metadata=type(meta_over)(
            labels={**meta_under.labels, **meta_over.labels},
            annotations={**meta_under.annotations, **meta_over.annotations},
        ),
        env=by("name", under.env, over.env),
        volumes=by("name", under.volumes, over.volumes),
        volume_mounts=by("mountPath", under.volume_mounts, over.volume_mounts),
        service_account_name=over.service_account_name or under.service_account_name,
    )


def pod_spec(llmd: LLMDeployment, defaults: Defaults, overlay: PodTemplate) -> Manifest:
    spec = llmd.spec
    common = common_container(spec, defaults, overlay)
    fetched = is_downloaded(spec.model, defaults.image_volumes)
    pull_secrets = image_pull_secrets(spec, defaults)
    return {
        "serviceAccountName": overlay.service_account_name or llmd.metadata.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": ENDPOINT_SECONDS + spec.drain_seconds + EXIT_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"initContainers": [fetch_container(spec.model, common)]} if fetched else {}),
        "containers": [container(llmd, defaults, common)],
        "volumes": [*own_volumes(llmd, defaults), *overlay.volumes],
        **({"imagePullSecrets": pull_secrets} if pull_secrets else {}),
        **network(spec),
        **placement(spec.scheduling, llmd.metadata.name),
    }


def container(llmd: LLMDeployment, defaults: Defaults, common: Manifest) -> Manifest:
    spec = llmd.spec
    has_models = model_volume(spec.model, llmd.metadata.name, defaults.image_volumes) is not None
    of_group = spec.group_size > 1
    ports: list[Manifest] = [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}]
    models = [{"name": "models", "mountPath": MODELS_PATH, "readOnly": True}] if has_models else []
    return {
        **common,
        "name": CONTAINER,
        "args": arguments(llmd, defaults.image_volumes),
        "env": by("name", GROUP_ENV if of_group else (), common["env"], spec.engine.env),
        "ports": [*ports, GROUP_CONTAINER_PORT] if of_group else ports,
        "resources": resources(spec.resources),
        "volumeMounts": [*common["volumeMounts"], *models],
        "lifecycle": {"preStop": {"sleep": {"seconds": ENDPOINT_SECONDS}}},
        **probes(spec.startup_seconds),
    }


def common_container(spec: Spec, defaults: Defaults, overlay: PodTemplate) -> Manifest:
    """What the engine's container and the one that downloads its model have in common; no GPUs among it."""
    pull_policy = spec.image_pull_policy or defaults.image_pull_policy
    return {
        "image": image(spec, defaults),
        **({"imagePullPolicy": pull_policy} if pull_policy else {}),
        "env": by("name", [{"name": "HOME", "value": "/tmp"}], overlay.env),
        "resources": resources(Resources(cpu=spec.resources.cpu, memory=spec.resources.memory)),
        "volumeMounts": [*OWN_MOUNTS, *overlay.volume_mounts],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }


def image_pull_secrets(spec: Spec, defaults: Defaults) -> list[Passthrough]:
    """A model that is mounted as an image is pulled with the model's own Secret as well."""
    own = spec.model.secret_name if is_image(spec.model, defaults.image_volumes) else None
    return by("name", spec.image_pull_secrets, [{"name": own}] if own else [])


def image(spec: Spec, defaults: Defaults) -> str:
    """The resource's image, or the operator's for the hardware that is asked for."""
    built_in = defaults.engine_cuda_image if spec.resources.gpu else None
    return spec.image or built_in or defaults.engine_image


def resources(wanted: Resources) -> Manifest:
    """All but the CPU are limits too, for throttling delays every token."""
    requests = {
        "cpu": wanted.cpu,
        "memory": wanted.memory,
        wanted.gpu_resource_name: wanted.gpu or None,
        **wanted.extended,
    }
    given = {name: str(amount) for name, amount in requests.items() if amount is not None}
    limits = {name: amount for name, amount in given.items() if name != "cpu"}
    return {name: part for name, part in (("requests", given), ("limits", limits)) if part}


def own_volumes(llmd: LLMDeployment, defaults: Defaults) -> list[Manifest]:
    volumes: list[Manifest] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    if models := model_volume(llmd.spec.model, llmd.metadata.name, defaults.image_volumes):
        volumes.append({"name": "models", **models})
    return volumes


def placement(scheduling: Scheduling, name: str) -> Manifest:
    """Where the pod may run; a spread constraint without selector spreads the pods of this resource."""
    spread = [
        {"labelSelector": {"matchLabels": selector(name)}, **c}
        for c in scheduling.topology_spread_constraints
    ]
    parts: dict[str, Any] = {
        "nodeSelector": scheduling.node_selector,
        "tolerations": scheduling.tolerations,
        "affinity": scheduling.affinity,
        "topologySpreadConstraints": spread,
        "priorityClassName": scheduling.priority_class_name,
        "runtimeClassName": scheduling.runtime_class_name,
    }
    return {field: part for field, part in parts.items() if part}
