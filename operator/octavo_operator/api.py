"""The resource, typed: spec in, status out. The CRD's YAML says the same, with the rules."""

from typing import Any

import msgspec

from octavo_operator.names import Key

Passthrough = dict[str, Any]
"""A part of the Pod or HPA API that is handed on as it is."""


class Part(msgspec.Struct, rename="camel", kw_only=True, frozen=True, omit_defaults=True, gc=False):
    """Base of all parts: camelCase on the wire, unknown fields ignored."""


class Cache(Part, frozen=True):
    """Where a downloaded model is kept: a claim, a folder of each node, or (neither) a folder of each pod.

    With `size` the claim is made, of that class and access mode, and goes with the resource.
    """

    claim_name: str | None = None
    host_path: str | None = None
    size: int | str | None = None
    storage_class_name: str | None = None
    access_mode: str = "ReadWriteMany"


class Model(Part, frozen=True):
    source: str
    secret_name: str | None = None
    endpoint: str | None = None
    region: str | None = None
    cache: Cache | None = None


class Engine(Part, frozen=True):
    """Engine settings; None leaves the choice to the engine."""

    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    dtype: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    load_format: str | None = None
    gpu_memory_utilization: float | None = None
    swap_space: float | None = msgspec.field(default=None, name="swapSpaceGiB")
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    enforce_eager: bool | None = None
    preemption_mode: str | None = None
    scheduling_policy: str | None = None
    extra_args: list[str] = []
    env: list[Passthrough] = []


class Routing(Part, frozen=True):
    """Read by the router; None leaves the choice to it."""

    policy: str | None = None
    weight: int | None = None
    fallback: str | None = None


class Parallelism(Part, frozen=True):
    """With more ranks than a pod has GPUs a replica is a group of pods; on CPUs `pods` says of how many."""

    tensor: int = 1
    pipeline: int = 1
    pods: int | None = None
    topology_key: str = "topology.kubernetes.io/zone"
    host_network: bool = False

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline


class Resources(Part, frozen=True):
    gpu: int = 0
    gpu_resource_name: str = "nvidia.com/gpu"
    cpu: int | str | None = None
    memory: int | str | None = None
    extended: dict[str, int | str] = {}


class Autoscaling(Part, frozen=True):
    max_replicas: int
    min_replicas: int = 1
    kv_cache_usage: float | None = None
    queue_depth: int | None = None
    concurrency: int | None = None
    idle_seconds: int = 300
    behavior: Passthrough | None = None


class ScalingDefaults(Part, frozen=True, forbid_unknown_fields=True):
    """What counts where an autoscaled resource names no signal, or no behavior; bench/scaling chose it."""

    concurrency: int | None = 64
    kv_cache_usage: float | None = 0.8
    queue_depth: int | None = None
    behavior: Passthrough | None = None


class NetworkAccess(Part, frozen=True, forbid_unknown_fields=True):
    """NetworkPolicyPeers that may reach engines, such as the router; None: no policy is made."""

    engine_clients: list[Passthrough] | None = None


class Rollout(Part, frozen=True):
    max_surge: int | str = 1
    max_unavailable: int | str = 0


class Scheduling(Part, frozen=True):
    node_selector: dict[str, str] = {}
    tolerations: list[Passthrough] = []
    affinity: Passthrough | None = None
    topology_spread_constraints: list[Passthrough] = []
    priority_class_name: str | None = None
    runtime_class_name: str | None = None


class TemplateMetadata(Part, frozen=True):
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class PodTemplate(Part, frozen=True):
    metadata: TemplateMetadata = TemplateMetadata()
    env: list[Passthrough] = []
    volumes: list[Passthrough] = []
    volume_mounts: list[Passthrough] = []
    service_account_name: str | None = None


class PodDefaults(PodTemplate, frozen=True, forbid_unknown_fields=True):
    """The operator's own podTemplate, laid under every resource's; a misspelled field is an error."""


class Spec(Part, frozen=True):
    model: Model
    served_name: str | None = None
    aliases: list[str] = []
    routing: Routing = Routing()
    engine: Engine = Engine()
    parallelism: Parallelism | None = None
    resources: Resources = Resources()
    replicas: int | None = None
    autoscaling: Autoscaling | None = None
    rollout: Rollout = Rollout()
    drain_seconds: int = 120
    startup_seconds: int = 1800
    scheduling: Scheduling = Scheduling()
    pod_template: PodTemplate = PodTemplate()
    image: str | None = None
    image_pull_policy: str | None = None
    image_pull_secrets: list[Passthrough] = []

    @property
    def group_size(self) -> int:
        """Pods of one replica; more than 1: a group of a leader and its workers."""
        if self.parallelism is None:
            return 1
        if self.resources.gpu:
            return max(1, self.parallelism.ranks // self.resources.gpu)
        return self.parallelism.pods or 1


class Condition(msgspec.Struct, rename="camel", kw_only=True, frozen=True, gc=False):
    type: str
    status: str
    reason: str
    message: str
    last_transition_time: str
    observed_generation: int = 0


class Download(msgspec.Struct, rename="camel", kw_only=True, frozen=True, gc=False):
    """Of the pod that is least far."""

    downloaded_bytes: int = 0
    total_bytes: int = 0
    percent: int = 0
    file: str = ""
    progress: str = ""


class Status(msgspec.Struct, rename="camel", kw_only=True, frozen=True, gc=False):
    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    ready: str = ""
    pods_per_replica: int = 1
    selector: str = ""
    download: Download | None = None
    conditions: list[Condition] = []
    wake_requested: str = ""  # by the router, when a request finds no pod: any text it has not written before
    wake_handled: str = ""  # the wake_requested that led to the present number of pods

    @property
    def wakes(self) -> bool:
        """A request has come since the pods were last scaled to zero."""
        return self.wake_requested != self.wake_handled


class Metadata(msgspec.Struct, rename="camel", kw_only=True, frozen=True, gc=False):
    name: str
    namespace: str
    uid: str
    resource_version: str = "0"
    generation: int = 1
    deletion_timestamp: str | None = None


class LLMDeployment(msgspec.Struct, kw_only=True, frozen=True, gc=False):
    """One resource as the API server holds it."""

    metadata: Metadata
    spec: Spec
    status: Status = Status()

    @property
    def key(self) -> Key:
        return self.metadata.namespace, self.metadata.name

    @property
    def version(self) -> int:
        return int(self.metadata.resource_version)


def parse(body: Any) -> LLMDeployment:
    """Return the typed resource of a decoded JSON object.

    Raises:
        msgspec.ValidationError: the object breaks the schema of the CRD.
    """
    return msgspec.convert(body, LLMDeployment)


def decode(data: bytes | msgspec.Raw) -> LLMDeployment:
    """Return the typed resource of its JSON.

    Raises:
        msgspec.ValidationError: the object breaks the schema of the CRD.
    """
    return _decoder.decode(data)


_decoder = msgspec.json.Decoder(LLMDeployment)
