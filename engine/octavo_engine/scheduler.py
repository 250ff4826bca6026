"""What each step computes: continuous batching under one token budget, with chunked prefill and preemption.

A step takes decodes first, then goes on with prompts that have begun, then admits from the queue while budget, places
and blocks last. Sequences stand in one order, by (priority,) arrival and index: who comes first is served first, and
whoever stands last gives way when blocks run out. Nothing is admitted in a step in which blocks ran out.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import chain, count

from octavo_engine.admission import check_admissible
from octavo_engine.config import EngineConfig
from octavo_engine.errors import RequestError
from octavo_engine.kv_cache import KVCache
from octavo_engine.messages import (
    AddRequest,
    EngineStats,
    FinishReason,
    SampledToken,
    SequenceOutput,
    SequenceStep,
    StepInput,
    StepResult,
)
from octavo_engine.request import NO_ROW, Request, Sequence, Status
from octavo_engine.step_draft import StepDraft


class Scheduler:
    """A pure state machine: ``schedule`` decides a step, ``update`` takes in what a step sampled.

    Steps may be scheduled before former ones are updated; results come back in the order of the steps.
    ``max_model_len`` (tokens, prompt and output) must fit into ``num_blocks``, so that a sequence alone always
    can go on.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        num_blocks: int,
        num_host_blocks: int,
        max_model_len: int,
        eos_token_ids: list[int],
    ) -> None:
        self._config = config.scheduler
        self._max_model_len = max_model_len
        self._eos_token_ids = frozenset(eos_token_ids)
        # Without chunks a prompt takes one step, so a step must be able to hold the longest one.
        chunked = config.scheduler.enable_chunked_prefill
        self._token_budget = max(config.scheduler.max_num_batched_tokens, 1 if chunked else max_model_len)
        self.kv = KVCache(
            num_blocks,
            num_host_blocks,
            config.cache.block_size,
            prefix_caching=config.cache.enable_prefix_caching,
        )
        self._requests: dict[str, Request] = {}
        self._sequences: dict[int, Sequence] = {}
        self._waiting: list[Sequence] = []  # sorted; also holds the swapped ones
        self._running: list[Sequence] = []  # sorted
        self._places = config.scheduler.max_num_seqs  # free places in the batch
        self._arrivals = count()
        self._seq_ids = count()
        self._step_id = 0
        self._draft = StepDraft()
        self._budget = 0  # tokens left in the step being scheduled
        self._short_of_blocks = False
        self._prompt_done: list[Sequence] = []  # whose prompt the step being scheduled completes
        self.num_prefix_queries = self.num_prefix_hits = self.num_preemptions = 0
        self.num_prompt_tokens = self.num_generation_tokens = 0

    # ---- requests come and go ----------------------------------------------------------------------------------------
    def add(self, message: AddRequest) -> None:
        """Queue a request. Errors: RequestError, status 400 when it can never run, 429 when the queue is full."""
        if message.request_id in self._requests:
            raise RequestError(
                f"A request with the id {message.request_id!r} is running already; choose another."
            )
        check_admissible(message, self._config, self._max_model_len, num_waiting=len(self._waiting))
        priority = message.priority if self._config.policy == "priority" else 0
        request = Request(message, (priority, next(self._arrivals)), self._max_model_len, self._eos_token_ids)
        seq = self._new_sequence(request, 0, list(message.prompt_token_ids))
        seq.width = message.params.n
        if message.params.prompt_logprobs is not None:
            seq.prompt_logprobs = [None]
        self._requests[request.request_id] = request
        insort(self._waiting, seq)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Forget a request, or its sequence ``index`` alone; an unknown one is ignored."""
        request = self._requests.get(request_id)
        if request is None:
            return
        for seq in list(request.sequences.values()):
            if index is None or (seq.index == index and seq.width == 1):
                self._finish(seq)

    def has_work(self) -> bool:
        return bool(self._sequences)

    # ---- one step ----------------------------------------------------------------------------------------------------
    def schedule(self) -> StepInput | None:
        """Decide the next step; None when there is nothing to compute until a step in flight is collected."""
        self._budget = self._token_budget
        self._short_of_blocks = False
        prompts = self._schedule_decodes()
        self._schedule_prompts(prompts)
        self._admit_waiting()
        self._fork_prompts()
        self.kv.end_step()
        if self._draft.is_empty:
            return None
        step = self._draft.build(self._step_id)
        self._step_id += 1
        self._draft = StepDraft()
        return step

    def update(self, result: StepResult) -> list[SequenceOutput]:
        """Take in a step's tokens; those of sequences that ended meanwhile are dropped."""
        outputs = []
        for token in result.tokens:
            seq = self._sequences.get(token.seq_id)
            if seq is None:
                continue
            if token.prompt_logprobs is not None:
                _keep_prompt_logprobs(seq, token, result.step_id)
            if token.token_id >= 0:
                outputs.append(self._append(seq, token))
        for seq_id, sentence in result.failed.items():
            outputs += self._fail(seq_id, sentence)
        return outputs

    def _schedule_decodes(self) -> list[Sequence]:
        """Schedule one token for each sequence whose prompt is computed; returns those whose prompt is not."""
        prompts = []
        running = self._running
        position = 0
        while position < len(running) and self._budget:  # preemption shortens the list behind `position`
            seq = running[position]
            position += 1
            if seq.num_tokens - seq.num_computed > 1:
                prompts.append(seq)
            elif seq.num_tokens < seq.request.max_length:  # else its last token is in flight
                self._schedule_one(seq, 1)
        return prompts

    def _schedule_prompts(self, prompts: list[Sequence]) -> None:
        for seq in prompts:
            if self._budget and seq.status is Status.RUNNING:
                self._schedule_one(seq, min(self._budget, seq.num_tokens - seq.num_computed))

    def _admit_waiting(self) -> None:
        """Admit from the head of the queue only: nobody overtakes a request that waits for room."""
        if self._short_of_blocks or self._draft.swap_out:
            return
        waiting = self._waiting
        while waiting and self._budget and waiting[0].width <= self._places and not waiting[0].awaits_tokens:
            seq = waiting[0]
            swapped = seq.status is Status.SWAPPED
            if not (self._swap_in(seq) if swapped else self._take_prefix(seq)):
                return
            del waiting[0]
            seq.status = Status.RUNNING
            self._places -= seq.width
            insort(self._running, seq)
            self._schedule_one(seq, min(self._budget, seq.num_tokens - seq.num_computed))

    def _take_prefix(self, seq: Sequence) -> bool:
        """Give a waiting sequence the cached blocks of its prefix, if the rest of it fits too."""
        prefix = self.kv.find_prefix(seq)
        num_cached = len(prefix) * self.kv.block_size
        remaining = seq.num_tokens - num_cached
        blocks = -(-seq.num_tokens // self.kv.block_size) - self.kv.pool.num_held(prefix)
        if blocks > self._room():
            return False
        if remaining > self._budget and not self._config.enable_chunked_prefill:
            return False
        self.kv.pool.take(prefix)
        seq.block_table = prefix
        seq.num_offered = len(prefix)
        seq.num_computed = num_cached
        if seq.num_cached_tokens < 0:
            seq.num_cached_tokens = num_cached
            if seq.prompt_logprobs is None:
                self.num_prefix_queries += seq.num_tokens
                self.num_prefix_hits += num_cached
        return True

    def _swap_in(self, seq: Sequence) -> bool:
        end = min(seq.num_computed + self._budget, seq.num_tokens)
        if max(len(seq.host_table), -(-end // self.kv.block_size)) > self._room():
            return False
        self.kv.swap_in(seq, self._draft)
        return True

    def _room(self) -> int:
        """Blocks that an admission may use: a hundredth stays for those who run, lest they preempt it at once."""
        reserve = max(1, self.kv.pool.num_blocks // 100) if self._running else 0
        return self.kv.pool.num_free - reserve

    def _schedule_one(self, seq: Sequence, num_new: int) -> None:
        """Put the next ``num_new`` positions of a running sequence into the step, if blocks can be had."""
        kv, start = self.kv, seq.num_computed
        end = start + num_new
        kv.publish(seq)
        if not self._make_room(seq, kv.blocks_wanted(seq, end)):
            return
        new_blocks = kv.extend(seq, end, self._draft)
        if not seq.has_row:
            self._draft.start_row(seq)
            seq.row_step = self._step_id
            new_blocks = []
        sample = end == seq.num_tokens
        step = SequenceStep(seq.seq_id, start, num_new, sample, new_blocks)
        (self._draft.decodes if num_new == 1 else self._draft.prefills).append(step)
        self._budget -= num_new
        seq.num_computed = end
        seq.scheduled_step = self._step_id
        if sample:
            if seq.num_tokens == seq.request.num_prompt_tokens and seq.index == 0:
                self._prompt_done.append(seq)
            seq.num_tokens += 1  # known to the runner when the step ends, to us when it is collected

    def _fork_prompts(self) -> None:
        """Fork requests whose prompt this step completes; the new sequences run from the next step on."""
        for parent in self._prompt_done:
            self.num_prompt_tokens += parent.request.num_prompt_tokens
            for index in range(1, parent.width):
                self._fork(parent, index)
            parent.width = 1
        self._prompt_done.clear()

    def _fork(self, parent: Sequence, index: int) -> None:
        """One more sequence; it computes the prompt's last position anew, to sample a first token of its own."""
        request = parent.request
        child = self._new_sequence(request, index, parent.token_ids[: request.num_prompt_tokens])
        child.num_computed = request.num_prompt_tokens - 1
        child.num_cached_tokens = parent.num_cached_tokens
        child.status = Status.RUNNING
        self.kv.share(parent, child)
        insort(self._running, child)

    def _new_sequence(self, request: Request, index: int, token_ids: list[int]) -> Sequence:
        seq = Sequence(request, next(self._seq_ids), index, token_ids)
        request.sequences[index] = seq
        self._sequences[seq.seq_id] = seq
        return seq

    # ---- preemption --------------------------------------------------------------------------------------------------
    def _make_room(self, seq: Sequence, num_blocks: int) -> bool:
        """Preempt sequences that stand behind ``seq`` until it can have its blocks; False when they do not suffice.

        It then keeps what it has and tries again in the next step. The first in line always gets its blocks.
        """
        while num_blocks > self.kv.pool.num_free:
            self._short_of_blocks = True
            victim = self._last_unscheduled()
            if victim is None or victim.key <= seq.key:
                return False
            self._preempt(victim)
        return True

    def _last_unscheduled(self) -> Sequence | None:
        for seq in reversed(self._running):
            if seq.scheduled_step != self._step_id:
                return seq
        return None

    def _preempt(self, seq: Sequence) -> None:
        """Take all blocks of a running sequence and queue it; its tokens are kept, also one still in flight."""
        self._leave_batch(seq)
        self.num_preemptions += 1
        swap = self._config.preemption_mode == "swap" and seq.has_row
        if swap and self.kv.swap_out(seq, self._draft):
            seq.status = Status.SWAPPED
        else:
            self.kv.free(seq)
            self._end_row(seq)
            seq.num_computed = 0
            seq.status = Status.WAITING
            if seq.prompt_logprobs is not None:
                seq.prompt_logprobs = [None]
        insort(self._waiting, seq)

    # ---- the end of sequences ----------------------------------------------------------------------------------------
    def _append(self, seq: Sequence, token: SampledToken) -> SequenceOutput:
        seq.token_ids.append(token.token_id)
        self.num_generation_tokens += 1
        length, request = len(seq.token_ids), seq.request
        reason: FinishReason | None = None
        if token.token_id in request.stop_ids and length > request.min_length:
            reason = "stop"
        elif length >= request.max_length:
            reason = "length"
        if reason is not None:
            self._finish(seq)
        prompt_logprobs, seq.prompt_logprobs = seq.prompt_logprobs, None
        return SequenceOutput(
            request_id=request.request_id,
            index=seq.index,
            token_ids=[token.token_id],
            logprobs=None if token.logprobs is None else [token.logprobs],
            finish_reason=reason,
            stop_token_id=token.token_id if reason == "stop" else None,
            num_cached_tokens=seq.num_cached_tokens,
            prompt_logprobs=prompt_logprobs,
        )

    def _fail(self, seq_id: int, sentence: str) -> list[SequenceOutput]:
        """End a sequence that the runner could not serve, and with it those that would have forked from it."""
        seq = self._sequences.get(seq_id)
        if seq is None:
            return []
        self._finish(seq)
        name, indices = seq.request.request_id, range(seq.index, seq.index + seq.width)
        return [SequenceOutput(name, index, [], finish_reason="error", error=sentence) for index in indices]

    def _finish(self, seq: Sequence) -> None:
        """Forget a sequence in whatever state it is, and free its blocks. Later steps may reuse them at once:
        the runner works steps off in order."""
        if seq.status is Status.RUNNING:
            self._leave_batch(seq)
            self.kv.free(seq)
        else:
            del self._waiting[bisect_left(self._waiting, seq)]
            self.kv.drop_swapped(seq, self._draft)
        self._end_row(seq)
        seq.status = Status.FINISHED
        del self._sequences[seq.seq_id]
        del seq.request.sequences[seq.index]
        if not seq.request.sequences:
            del self._requests[seq.request.request_id]

    def _leave_batch(self, seq: Sequence) -> None:
        del self._running[bisect_left(self._running, seq)]
        self._places += seq.width

    def _end_row(self, seq: Sequence) -> None:
        if seq.has_row:
            self._draft.ended.append(seq.seq_id)
            seq.row_step = NO_ROW

    # ---- the books ---------------------------------------------------------------------------------------------------
    def stats(self, steps: int) -> EngineStats:
        num_swapped = sum(seq.status is Status.SWAPPED for seq in self._waiting)
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting) - num_swapped,
            num_swapped=num_swapped,
            kv_cache_usage=self.kv.pool.usage,
            host_kv_cache_usage=self.kv.host.usage,
            prefix_cache_queries=self.num_prefix_queries,
            prefix_cache_hits=self.num_prefix_hits,
            preemptions=self.num_preemptions,
            steps=steps,
            prompt_tokens=self.num_prompt_tokens,
            generation_tokens=self.num_generation_tokens,
        )

    def check_integrity(self) -> None:
        """Raise AssertionError when queues, places and blocks disagree; to be called between steps."""
        running, waiting = self._running, self._waiting
        assert running == sorted(running), "the running sequences are out of order"
        assert waiting == sorted(waiting), "the queue is out of order"
        assert all(seq.status is Status.RUNNING for seq in running), "a sequence runs without being RUNNING"
        assert {seq.seq_id for seq in chain(running, waiting)} == self._sequences.keys(), "a sequence is lost"
        assert self._places == self._config.max_num_seqs - sum(seq.width for seq in running), (
            "places are lost"
        )
        assert all(not seq.block_table for seq in waiting), "a waiting sequence holds device blocks"
        assert all(not seq.host_table or seq.status is Status.SWAPPED for seq in waiting), (
            "host blocks are held"
        )
        self.kv.pool.check_integrity(seq.block_table for seq in running)
        self.kv.host.check_integrity(seq.host_table for seq in waiting)


def _keep_prompt_logprobs(seq: Sequence, token: SampledToken, step_id: int) -> None:
    """Collect a chunk's prompt log probabilities, unless it was computed before the prompt began anew."""
    if seq.prompt_logprobs is not None and token.prompt_logprobs is not None and step_id >= seq.row_step:
        missing = seq.request.num_prompt_tokens - len(seq.prompt_logprobs)
        seq.prompt_logprobs += token.prompt_logprobs[:missing]
