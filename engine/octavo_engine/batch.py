"""The live sequences: who runs, who waits, and how they move between the two.

Both stand in one order, by (priority,) arrival and index; ``waiting`` also holds those swapped to the host.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import chain, count

from octavo_engine.config import EngineConfig
from octavo_engine.kv_cache import KVCache
from octavo_engine.request import NO_ROW, Request, Sequence, Status
from octavo_engine.step_draft import StepDraft


class Batch:
    """Keeps queues, places and blocks in agreement; notes in ``draft`` what the runner must be told of it."""

    def __init__(self, config: EngineConfig, num_blocks: int, num_host_blocks: int) -> None:
        cache = config.cache
        self.kv = KVCache(
            num_blocks, num_host_blocks, cache.block_size, prefix_caching=cache.enable_prefix_caching
        )
        self.draft = StepDraft()
        self.requests: dict[str, Request] = {}
        self.sequences: dict[int, Sequence] = {}
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.free_places = config.scheduler.max_num_seqs
        self._max_num_seqs = config.scheduler.max_num_seqs
        self._seq_ids = count()

    def enter(self, request: Request, token_ids: list[int]) -> None:
        """A new request waits, as one sequence that takes the places of all it will fork into."""
        seq = self._new_sequence(request, 0, token_ids)
        seq.width = request.params.n
        if request.params.prompt_logprobs is not None:
            seq.prompt_logprobs = [None]  # nothing comes before the first token
        self.requests[request.request_id] = request
        insort(self.waiting, seq)

    def admit(self, seq: Sequence) -> None:
        """``seq``, the head of the queue, runs; its blocks have been given to it."""
        del self.waiting[0]
        seq.status = Status.RUNNING
        self.free_places -= seq.width
        insort(self.running, seq)

    def fork(self, parent: Sequence) -> None:
        """Split a request whose prompt is scheduled to the end into its ``n`` sequences.

        The new ones share all blocks of the prompt and compute its last position anew, each to sample a first
        token of its own; whoever writes into the shared last block gets a copy of it while others hold it.
        """
        request = parent.request
        for index in range(1, parent.width):
            child = self._new_sequence(request, index, parent.token_ids[: request.num_prompt_tokens])
            child.num_computed = request.num_prompt_tokens - 1
            child.num_cached_tokens = parent.num_cached_tokens
            child.status = Status.RUNNING
            self.kv.share(parent, child)
            insort(self.running, child)
        parent.width = 1

    def preempt(self, seq: Sequence, *, swap: bool) -> None:
        """Take all blocks of a running sequence and queue it; its tokens are kept, also one still in flight.

        With ``swap`` its KV moves to the host if there is room, else it is computed anew.
        """
        self._leave(seq)
        if swap and seq.has_row and self.kv.swap_out(seq, self.draft):
            seq.status = Status.SWAPPED
        else:
            self.kv.free(seq)
            self._end_row(seq)
            seq.num_computed = 0
            seq.status = Status.WAITING
            if seq.prompt_logprobs is not None:
                seq.prompt_logprobs = [None]
        insort(self.waiting, seq)

    def finish(self, seq: Sequence) -> None:
        """Forget a sequence in whatever state it is, and free its blocks.

        A later step may reuse them while a step in flight still uses them: the runner keeps the steps' order.
        """
        if seq.status is Status.RUNNING:
            self._leave(seq)
            self.kv.free(seq)
        else:
            del self.waiting[bisect_left(self.waiting, seq)]
            self.kv.drop_swapped(seq, self.draft)
        self._end_row(seq)
        seq.status = Status.FINISHED
        del self.sequences[seq.seq_id]
        del seq.request.sequences[seq.index]
        if not seq.request.sequences:
            del self.requests[seq.request.request_id]

    def reserve(self, num_running: int) -> int:
        """Blocks that an admission leaves to those who run, lest they preempt it at once: a hundredth."""
        return max(1, self.kv.pool.num_blocks // 100) if num_running else 0

    def check_integrity(self) -> None:
        """Raise AssertionError when queues, places and blocks disagree; to be called between steps."""
        running, waiting = self.running, self.waiting
        assert running == sorted(running), "the running sequences are out of order"
        assert waiting == sorted(waiting), "the queue is out of order"
        assert all(seq.status is Status.RUNNING for seq in running), "a sequence runs without being RUNNING"
        assert sorted(seq.seq_id for seq in chain(running, waiting)) == sorted(self.sequences), "one is lost"
        assert self.free_places == self._max_num_seqs - sum(seq.width for seq in running), "places are lost"
        assert all(not seq.block_table for seq in waiting), "a waiting sequence holds device blocks"
        assert all(seq.status is Status.SWAPPED for seq in waiting if seq.host_table), "host blocks are lost"
        self.kv.pool.check_integrity(seq.block_table for seq in running)
        self.kv.host.check_integrity(seq.host_table for seq in waiting)

    def _new_sequence(self, request: Request, index: int, token_ids: list[int]) -> Sequence:
        seq = Sequence(request, next(self._seq_ids), index, token_ids)
        request.sequences[index] = seq
        self.sequences[seq.seq_id] = seq
        return seq

    def _leave(self, seq: Sequence) -> None:
        del self.running[bisect_left(self.running, seq)]
        self.free_places += seq.width

    def _end_row(self, seq: Sequence) -> None:
        if seq.has_row:
            self.draft.ended.append(seq.seq_id)
            seq.row_step = NO_ROW
