"""What the choice of a pod costs for a body of 228 KB with 122 messages, by step, and with other steps."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator

import msgspec

from octavo_router.endpoints import Address, Endpoint
from octavo_router.policies import Policies
from octavo_router.prompt import Features, chained, read_body

MESSAGES, BODY_BYTES, PODS, RUNS = 122, 228_000, 64, 2_000


class _Named(msgspec.Struct, gc=False):
    model: str


class _Raw(_Named, gc=False):
    messages: msgspec.Raw


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str


class _Decoded(_Named, gc=False):
    messages: list[_Message]


def made_body() -> bytes:
    chance = random.Random(1)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "\n"]
    size = (BODY_BYTES - 40 * MESSAGES) // MESSAGES
    texts = [" ".join(chance.choices(words, k=size // 5))[:size] for _ in range(MESSAGES)]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return json.dumps({"model": "m", "messages": messages, "stream": True}).encode()


def median_us(work: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def measure() -> Iterator[tuple[str, float]]:
    """Step -> microseconds."""
    body = made_body()
    name, raw, decoded = (msgspec.json.Decoder(kind).decode for kind in (_Named, _Raw, _Decoded))
    asked, policies = read_body(body), Policies("prefix")
    policy, pods = policies.of("prefix"), [Endpoint(Address(f"10.0.0.{n}", 8000)) for n in range(PODS)]
    chance = random.Random(2)
    for number in range(2_000):
        policies.table.learn([chance.getrandbits(64) for _ in range(100)], pods[number % PODS])

    def raw_blocks() -> list[int]:
        return chained(bytes(raw(body).messages), 0)

    def decoded_blocks() -> list[int]:
        return chained("".join([p for m in decoded(body).messages for p in (m.role, m.content)]).encode(), 0)

    yield "name_only", median_us(lambda: name(body))
    yield "read_body", median_us(lambda: read_body(body))
    yield "blocks.raw_messages", median_us(raw_blocks)
    yield "blocks.structure_decoded", median_us(lambda: Features(read_body(body)).prompt)
    yield "blocks.all_decoded", median_us(decoded_blocks)
    yield "choice", median_us(lambda: policy.choose(pods, Features(asked)))
    yield "whole", median_us(lambda: policy.choose(pods, Features(read_body(body))))
