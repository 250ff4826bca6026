"""A request and its sequences: plain state that the scheduler moves through this lifetime.

    WAITING ──admit──> RUNNING ──stop, length, error, abort──> FINISHED
       ^                 │  ^
       └──recompute──────┤  └──swap in── SWAPPED
                         └──swap out───────^

A request with ``n`` > 1 is one sequence until its prompt is scheduled to the end; then it forks into ``n``.
"""

from __future__ import annotations

import enum

from octavo_engine.messages import AddRequest, SampledToken, TokenLogprobs

NO_ROW = 1 << 62  # a row_step later than every step: the runner holds no row for the sequence


class Status(enum.IntEnum):
    WAITING = 0
    RUNNING = 1
    SWAPPED = 2
    FINISHED = 3


class Sequence:
    """One stream of tokens.

    A decode may be scheduled before its input token is known: ``num_tokens`` counts tokens that are known
    (``token_ids``) and those still being sampled. Invariant while live: ``num_computed <= num_tokens`` and
    ``len(token_ids) <= num_tokens``.
    """

    __slots__ = (
        "block_hashes",
        "block_table",
        "host_table",
        "index",
        "key",
        "num_cached_tokens",
        "num_computed",
        "num_offered",
        "num_tokens",
        "prompt_logprobs",
        "request",
        "row_step",
        "scheduled_step",
        "seq_id",
        "status",
        "token_ids",
        "width",
        "writable_end",
    )

    def __init__(self, request: Request, seq_id: int, index: int, token_ids: list[int]) -> None:
        self.request = request
        self.seq_id = seq_id
        self.index = index
        self.key = (*request.order, index)  # scheduled, admitted and spared from preemption in this order
        self.status = Status.WAITING
        self.width = 1  # places it takes in the batch: n until a request has forked
        self.token_ids = token_ids
        self.num_tokens = len(token_ids)
        self.num_computed = 0  # positions whose KV is computed by steps scheduled so far
        self.num_cached_tokens = -1  # prompt tokens found in the prefix cache; -1: never admitted
        self.block_table: list[int] = []
        self.host_table: list[int] = []
        self.block_hashes: list[bytes] = []  # of the leading full blocks, as far as they were needed
        self.writable_end = 0  # positions from num_computed up to here lie in blocks that it alone holds
        self.num_offered = 0  # leading blocks of the table that the prefix cache knows or was offered
        self.row_step = NO_ROW  # step in which the runner's row began
        self.scheduled_step = -1
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None  # until they are reported

    def __lt__(self, other: Sequence) -> bool:
        return self.key < other.key

    def yields_to(self, other: Sequence) -> bool:
        """Whether ``other`` is of a more urgent priority; who came first does not count."""
        return other.request.order[0] < self.request.order[0]

    @property
    def has_row(self) -> bool:
        return self.row_step != NO_ROW

    @property
    def awaits_tokens(self) -> bool:
        """Whether a step in flight is still sampling one of its tokens."""
        return self.num_tokens > len(self.token_ids)

    def keep_prompt_logprobs(self, token: SampledToken, step_id: int) -> None:
        """Collect a chunk's, unless it was computed before the prompt began anew."""
        if (
            self.prompt_logprobs is not None
            and token.prompt_logprobs is not None
            and step_id >= self.row_step
        ):
            missing = self.request.num_prompt_tokens - len(self.prompt_logprobs)
            self.prompt_logprobs += token.prompt_logprobs[:missing]


class Request:
    """What the sequences of one request share. ``order``: (priority, arrival), lower goes first."""

    __slots__ = (
        "max_length",
        "min_length",
        "num_prompt_tokens",
        "order",
        "params",
        "request_id",
        "salt",
        "sequences",
        "stop_ids",
    )

    def __init__(
        self, message: AddRequest, order: tuple[int, int], max_model_len: int, eos_token_ids: frozenset[int]
    ) -> None:
        params = message.params
        self.request_id = message.request_id
        self.order = order
        self.params = params
        self.salt = message.cache_salt
        self.num_prompt_tokens = len(message.prompt_token_ids)
        limit = max_model_len if params.max_tokens is None else self.num_prompt_tokens + params.max_tokens
        self.max_length = max(
            min(limit, max_model_len), self.num_prompt_tokens + 1
        )  # prompt and output tokens
        self.min_length = self.num_prompt_tokens + params.min_tokens  # no token up to here ends a sequence
        self.stop_ids = eos_token_ids if not params.ignore_eos else frozenset[int]()
        if params.stop_token_ids:
            self.stop_ids = self.stop_ids | frozenset(params.stop_token_ids)
        self.sequences: dict[int, Sequence] = {}  # the live ones by index
