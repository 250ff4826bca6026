"""The router's settings: one frozen value, read once from environment and command line, passed down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from octavo_router.errors import SettingsError
from octavo_router.policies import PolicyName

PREFIX = "OCTAVO_"


class Settings(BaseModel):
    """Every field F is set by the environment variable OCTAVO_F. Times are in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("0.0.0.0", description="address that the API and the admin port listen on")
    port: int = Field(8000, ge=0, le=65535, description="port of the OpenAI API; 0 picks a free one")
    admin_port: int = Field(8081, ge=0, le=65535, description="port of /healthz, /readyz and /metrics")
    workers: int = Field(1, ge=1, le=256, description="processes that share the port, one a core")
    page: bool = Field(False, description="serve a read-only page for people at / of the admin port")
    watch_namespaces: tuple[str, ...] = Field(
        (), description="namespaces to watch, comma-separated; empty: all"
    )
    policy: PolicyName = Field(
        "prefix",
        description="how requests are spread over the pods of a model that does not say: "
        "least-load, prefix, round-robin, session",
    )
    load_bound: float = Field(
        1.25,
        ge=1,
        le=100,
        description="times the mean load, from which `prefix` and `session` pass a pod over",
    )
    prefix_table: int = Field(
        300_000, ge=0, le=100_000_000, description="blocks of prompts remembered; about 130 bytes each"
    )
    session_header: str = Field("x-session-id", min_length=1, description="header that names a session")
    load_age: float = Field(
        0.5, ge=0, description="after which a busy model's pods are asked for their load; 0: never"
    )
    api_keys: bool = Field(False, description="ask for API keys, which are read from labelled Secrets")
    peers: str = Field(
        "",
        pattern="^(.+:[0-9]{1,5})?$",
        description="HOST:PORT of the admin ports of all replicas, which then share the limits of API keys",
    )
    access_log: float = Field(
        0, ge=0, le=1, description="share of the requests that are logged on stdout; 0: none, 1: all"
    )
    trace: bool = Field(False, description="begin a W3C trace context for requests without one")
    port_name: str = Field("http", description="name of the engine's port in the EndpointSlices")
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="debug|info|warning|error"
    )
    max_head_bytes: int = Field(32_768, ge=1024, description="largest request head; more: 431")
    max_body_bytes: int = Field(33_554_432, ge=1, description="largest request body; more: 413")
    max_buffered_bytes: int = Field(
        536_870_912,
        ge=1,
        description="bodies held at once, all requests of a replica together; more: 503 with Retry-After",
    )
    header_timeout: float = Field(10, gt=0, description="for a whole request head; then 408")
    body_timeout: float = Field(30, gt=0, description="between two pieces of a request body; then 408")
    keepalive_timeout: float = Field(75, gt=0, description="for which an idle client connection is kept")
    stall_timeout: float = Field(60, gt=0, description="for which a client may leave a response unread")
    connect_timeout: float = Field(2, gt=0, description="to connect to a pod, each try")
    first_byte_timeout: float = Field(
        300, gt=0, description="from a streaming request to its first byte, each try; then the next pod"
    )
    chunk_timeout: float = Field(
        300, gt=0, description="between two chunks of a stream; then it is cut, with an error event"
    )
    upstream_timeout: float = Field(
        600, gt=0, description="for which a pod may be silent that does not stream; then 504"
    )
    upstream_keepalive: float = Field(4, gt=0, description="for which an idle connection to a pod is kept")
    hold_timeout: float = Field(
        300, ge=0, description="for which a request waits while a model that was scaled to zero starts"
    )
    hold_requests: int = Field(
        1000, ge=0, description="requests of one model that wait so at once at a replica"
    )
    max_tries: int = Field(6, ge=1, description="pods tried for one request before its first byte")
    retry_ratio: float = Field(
        0.2, ge=0, le=10, description="retries a request that a model may have over time"
    )
    retry_burst: int = Field(100, ge=0, description="retries of a model that may come at once")
    ejection: float = Field(
        2,
        ge=0,
        description="for which a pod that failed gets no new requests; doubled each time it fails again",
    )
    longest_ejection: float = Field(30, ge=0, description="and this at most")
    lame_duck: float = Field(5, ge=0, description="after SIGTERM: unready, but still accepting")
    drain_timeout: float = Field(
        300, ge=0, description="after the lame-duck time: for running requests to finish"
    )
    forwarded: bool = Field(False, description="append the client's address to X-Forwarded-For")

    @classmethod
    def load(cls, environ: Mapping[str, str], **given: object) -> Settings:
        """Settings from OCTAVO_* variables, overridden by those of `given` that are not None.

        Raises:
            SettingsError: a value is wrong; the message names the variable and the value.
        """
        values: dict[str, Any] = {
            name: environ[PREFIX + name.upper()]
            for name in cls.model_fields
            if environ.get(PREFIX + name.upper())
        }
        values |= {name: value for name, value in given.items() if value is not None}
        if isinstance(listed := values.get("watch_namespaces"), str):
            values["watch_namespaces"] = tuple(n for n in (part.strip() for part in listed.split(",")) if n)
        try:
            settings = cls(**values)
        except ValidationError as error:
            raise SettingsError(_sentence(error)) from None
        if settings.max_body_bytes > settings.max_buffered_bytes:
            raise SettingsError(
                f"OCTAVO_MAX_BODY_BYTES is {settings.max_body_bytes}: no such body could be taken, for all "
                f"that are held together may have {settings.max_buffered_bytes} bytes; lower it, or raise "
                "OCTAVO_MAX_BUFFERED_BYTES as well."
            )
        return settings


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = PREFIX + str(first["loc"][0]).upper()
    return f"{name} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}."
