"""What crosses a process border inside the engine, as msgpack: API process <-> core, and core <-> runner.

The scheduler's state never leaves the core. A runner, which may stand in another process and exists once per
rank, is told only the difference a step makes; it keeps one row per live sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import msgspec

from octavo_engine.errors import EngineError
from octavo_engine.sampling_params import SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]


# ---- API process -> core ---------------------------------------------------------------------------------
class AddRequest(msgspec.Struct, frozen=True, tag="add"):
    """A tokenized prompt to complete. ``priority``: lower runs earlier (policy ``priority`` only)."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    arrival_time: float  # time.time() of the API process, seconds
    priority: int = 0
    cache_salt: str = ""  # requests share cached prefixes only within one salt


class AbortRequests(msgspec.Struct, frozen=True, tag="abort"):
    """Forget these requests at once and free their blocks; unknown ids are ignored. No output follows.

    ``sequences`` names single ones of a request with ``n`` > 1 (request id, index), such as one that met
    a stop string.
    """

    request_ids: list[str]
    sequences: list[tuple[str, int]] = []


class AbortClient(msgspec.Struct, frozen=True, tag="abort_client"):
    """Forget every request of an API process that is gone, also those that are read later.

    They come through another socket than this message. ``incarnation``: how many stood in its place before.
    """

    client: int
    incarnation: int


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End the core's loop after the running step."""


CoreRequest = AddRequest | AbortRequests | AbortClient | Shutdown


def id_prefix(client: int, incarnation: int) -> str:
    """What the request ids of API process ``client`` begin with, so that its outputs find back to it."""
    return f"{client}.{incarnation}/"


def origin_of(request_id: str) -> tuple[int, int]:
    """The API process that asked, and its incarnation; zeros for an id without a prefix."""
    prefix, slash, _ = request_id.partition("/")
    if not slash:
        return 0, 0
    client, _, incarnation = prefix.partition(".")
    return int(client), int(incarnation)


# ---- core -> API process ---------------------------------------------------------------------------------
class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities at one position: the chosen token first, then the top alternatives by rank."""

    token_ids: list[int]
    logprobs: list[float]
    rank: int  # rank of the chosen token, 1 = most likely


class SequenceOutput(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of one sequence (``index`` of ``n``) of a request."""

    request_id: str
    index: int
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None  # the eos or stop id that ended it, when one did
    num_cached_tokens: int = 0  # prompt tokens found in the prefix cache
    # once, with the first output; None for the first token
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    error: str | None = None  # a sentence, with finish_reason "error"
    error_status: int = 500  # the HTTP status that fits the error: 400, 429 (the queue is full) or 500


class EngineStats(msgspec.Struct, frozen=True):
    """The scheduler's gauges and counters after a step; counters only ever grow.

    Gauges count sequences: a request with ``n`` > 1 is one until its prompt is computed, then ``n``.
    """

    num_running: int = 0
    num_waiting: int = 0  # not begun, or preempted by recompute
    num_swapped: int = 0
    kv_cache_usage: float = 0.0  # blocks in use by live sequences / all blocks, 0..1
    host_kv_cache_usage: float = 0.0
    prefix_cache_queries: int = 0  # prompt tokens looked up
    prefix_cache_hits: int = 0  # prompt tokens found
    preemptions: int = 0
    steps: int = 0
    prompt_tokens: int = 0  # prompt tokens computed or found
    generation_tokens: int = 0

    @property
    def num_in_flight(self) -> int:
        return self.num_running + self.num_waiting + self.num_swapped


class StepOutputs(msgspec.Struct, frozen=True, tag="outputs"):
    outputs: list[SequenceOutput]
    stats: EngineStats


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Sent once, when the model is loaded and the first step may be asked for."""

    max_model_len: int
    vocab_size: int
    num_blocks: int
    num_host_blocks: int
    block_size: int
    eos_token_ids: list[int]
    load_seconds: float


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """From a thread beside the step loop, once a second, so that a hung loop is told from an idle one.

    ``step_age`` is the seconds since the running step began (0 when the loop is idle).
    """

    steps: int
    step_age: float
    loop_age: float  # seconds since the loop last went round; an idle loop wakes at least once a second


class Fatal(msgspec.Struct, frozen=True, tag="fatal"):
    """The core ends; ``message`` is one sentence for the user."""

    message: str


CoreMessage = StepOutputs | Ready | Heartbeat | Fatal


# ---- core <-> runner -------------------------------------------------------------------------------------
class RunnerSpec(msgspec.Struct, frozen=True):
    """What the scheduler must know of the loaded model."""

    vocab_size: int
    max_model_len: int  # already lowered to what the model's positions allow
    eos_token_ids: list[int]
    bytes_per_block: int  # KV bytes of one block over all layers of one rank
    steps_in_flight: int = 1  # how many launched steps keep the runner busy


class SequenceStart(msgspec.Struct, frozen=True):
    """A sequence's row begins (first scheduling, or again after preemption by recompute).

    ``block_ids`` is the whole block table that this step needs: the sequence's step brings no more blocks.
    """

    seq_id: int  # small unique int, never reused while alive
    token_ids: list[int]  # prompt + output so far
    num_prompt_tokens: int
    params: SamplingParams
    block_ids: list[int]
    num_computed_tokens: int
    index: int = 0  # of the request's n: each draws from a random stream of its own


class SequenceStep(msgspec.Struct, frozen=True, array_like=True):
    """What one live sequence does in this step.

    Positions ``[num_computed_tokens, num_computed_tokens + num_new_tokens)`` are computed; a token is sampled
    after the last of them when ``sample`` is set (the prompt is complete). ``new_block_ids`` are appended to
    its block table.
    """

    seq_id: int
    num_computed_tokens: int
    num_new_tokens: int
    sample: bool
    new_block_ids: list[int]


class StepInput(msgspec.Struct, frozen=True):
    """One step; ``sequences`` is never empty.

    The runner applies, in this order: tokens of other stages, ended rows, swap-out, swap-in,
    block copies, block changes, starts, the forward.
    """

    step_id: int
    ended: list[int]  # seq_ids whose rows are dropped (finished, aborted or preempted by recompute)
    swap_out: list[tuple[int, int]]  # (device block, host block)
    swap_in: list[tuple[int, int]]  # (host block, device block)
    copies: list[tuple[int, int]]  # (source, destination) device blocks: copy-on-write
    block_changes: list[tuple[int, int, int]]  # (seq_id, index in its block table, new block id)
    starts: list[SequenceStart]
    sequences: list[SequenceStep]  # decodes first, then prefill chunks
    tokens: list[tuple[int, int, int]] = []  # (seq_id, position, token) of rows that another stage sampled


class SampledToken(msgspec.Struct, frozen=True, array_like=True):
    """What a step brought one sequence.

    A chunk that samples nothing is reported (with ``token_id`` -1) only to carry prompt log probabilities.
    """

    seq_id: int
    token_id: int
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None  # of the positions this step computed, shifted by one


class StepResult(msgspec.Struct, frozen=True):
    """Tokens sampled in a step; ``failed`` maps the seq_id of one that could not be served to a sentence."""

    step_id: int
    tokens: list[SampledToken]
    failed: dict[int, str] = {}


class Runner(Protocol):
    """The narrow interface through which the engine reaches everything that imports torch.

    ``launch`` returns as soon as the work is under way; ``collect`` waits for the oldest launched step.
    A token sampled in a step is known to the runner's own row at once, so the next step may be launched
    before the former is collected.
    Errors: :class:`octavo_engine.errors.EngineError` with a sentence for the user.
    """

    def load(self) -> RunnerSpec: ...
    def profile_blocks(self) -> tuple[int, int]:
        """(device blocks, host blocks) that fit."""
        ...

    def allocate(self, num_blocks: int, num_host_blocks: int) -> None: ...
    def launch(self, step: StepInput) -> None: ...
    def collect(self) -> StepResult: ...
    def shutdown(self) -> None: ...


@runtime_checkable
class GroupRunner(Runner, Protocol):
    """A runner over several processes, which may lose one of them while the engine's thread waits for it."""

    def on_failure(self, tell: Callable[[EngineError], None]) -> None:
        """``tell`` is called once, from another thread, when the runner can never answer again."""
        ...
