"""What each step computes: continuous batching under one token budget, with chunked prefill and preemption.

A step takes decodes first, then goes on with prompts that have begun, then admits from the queue while
budget, places and blocks last. Who stands first is served first; who stands last gives way when blocks run
out, and to a newcomer of a more urgent priority that finds no room. Nothing is admitted in a step in which
blocks ran out, and nobody overtakes the head of the queue, so that nobody starves.
"""

from __future__ import annotations

from itertools import count

from octavo_engine.admission import check_admissible
from octavo_engine.batch import Batch
from octavo_engine.config import EngineConfig
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
from octavo_engine.preemption import who_gives_way
from octavo_engine.prefill_pace import PrefillPace
from octavo_engine.request import NO_ROW, Request, Sequence, Status


class Scheduler:
    """A pure state machine: ``schedule`` decides a step, ``update`` takes in what a step sampled.

    Steps may be scheduled before former ones are updated; results come back in the order of the steps.
    ``max_model_len`` (tokens, prompt and output) must fit into ``num_blocks``: then whoever stands first can
    always go on.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        num_blocks: int,
        num_host_blocks: int,
        max_model_len: int,
        vocab_size: int,
        eos_token_ids: list[int],
    ) -> None:
        self.batch = Batch(config, num_blocks, num_host_blocks)
        self.pace = PrefillPace(config.scheduler.max_decode_slowdown)
        self.shape = (0, 0)  # of the last step: decodes, and tokens of prompts
        self._kv = self.batch.kv
        self._config = config.scheduler
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._eos_token_ids = frozenset(eos_token_ids)
        # Without chunks a prompt takes one step, so a step must be able to hold the longest one.
        longest_chunk = 1 if self._config.enable_chunked_prefill else max_model_len
        self._token_budget = max(self._config.max_num_batched_tokens, longest_chunk)
        self._stages = config.parallel.pipeline
        self._arrivals = count()
        self._step_id = 0
        self._budget = 0  # tokens left in the step being scheduled
        self._short_of_blocks = False
        self._prompts_done: list[Sequence] = []  # whose prompt the step being scheduled completes
        self._num_prefix_queries = self._num_prefix_hits = self._num_preemptions = 0
        self._num_prompt_tokens = self._num_generation_tokens = 0

    def add(self, message: AddRequest) -> None:
        """Queue a request. Errors: RequestError, status 400 if it can never run, 429 if the queue is full."""
        check_admissible(message, self._config, self._max_model_len, self._vocab_size, self.batch)
        priority = message.priority if self._config.policy == "priority" else 0
        order = (priority, next(self._arrivals))
        request = Request(message, order, self._max_model_len, self._eos_token_ids)
        self.batch.enter(request, list(message.prompt_token_ids))

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Forget a request, or its sequence ``index`` alone; an unknown one is ignored."""
        request = self.batch.requests.get(request_id)
        if request is None:
            return
        for seq in list(request.sequences.values()):
            if index is None or (seq.index == index and seq.width == 1):
                self.batch.finish(seq)

    def has_work(self) -> bool:
        return bool(self.batch.sequences)

    def schedule(self) -> StepInput | None:
        """Decide the next step; None when there is nothing to compute until a step in flight is collected."""
        self._budget = self._token_budget
        self._short_of_blocks = False
        for victim in who_gives_way(self.batch, self._budget):
            self._preempt(victim)
        prompts = self._schedule_decodes()
        num_prompts = len(prompts) + len(self.batch.waiting)
        self._budget = self._prompt_limit(len(self.batch.draft.decodes), num_prompts)
        self._schedule_prompts(prompts)
        self._admit_waiting()
        self._complete_prompts()
        if self.batch.draft.is_empty:
            return None
        self.shape = len(self.batch.draft.decodes), sum(s.num_new_tokens for s in self.batch.draft.prefills)
        step = self.batch.draft.build(self._step_id)
        self._step_id += 1
        return step

    def update(self, result: StepResult) -> list[SequenceOutput]:
        """Take in a step's tokens; those of sequences that ended meanwhile are dropped."""
        outputs = []
        for token in result.tokens:
            seq = self.batch.sequences.get(token.seq_id)
            if seq is None:
                continue
            seq.keep_prompt_logprobs(token, result.step_id)
            if token.token_id >= 0:
                outputs.append(self._append(seq, token))
        for seq_id, sentence in result.failed.items():
            outputs += self._fail(seq_id, sentence)
        return outputs

    def stats(self, steps: int) -> EngineStats:
        batch = self.batch
        num_swapped = sum(seq.status is Status.SWAPPED for seq in batch.waiting)
        return EngineStats(
            num_running=len(batch.running),
            num_waiting=len(batch.waiting) - num_swapped,
            num_swapped=num_swapped,
            kv_cache_usage=self._kv.pool.usage,
            host_kv_cache_usage=self._kv.host.usage,
            prefix_cache_queries=self._num_prefix_queries,
            prefix_cache_hits=self._num_prefix_hits,
            preemptions=self._num_preemptions,
            steps=steps,
            prompt_tokens=self._num_prompt_tokens,
            generation_tokens=self._num_generation_tokens,
        )

    def check_integrity(self) -> None:
        """Raise AssertionError when queues, places and blocks disagree; to be called between steps."""
        self.batch.check_integrity()

    def _schedule_decodes(self) -> list[Sequence]:
        """Schedule a token for each sequence whose prompt is computed; returns those whose prompt is not."""
        prompts = []
        running = self.batch.running
        most = -(-len(running) // self._stages)  # the others' tokens are for the steps that run beside
        position = 0
        while position < len(running) and self._budget:  # preemption shortens the list behind `position`
            seq = running[position]
            position += 1
            if seq.num_tokens - seq.num_computed > 1:
                if not self._schedule_urgent_prompt(seq, len(running) - position):
                    prompts.append(seq)
            elif seq.num_tokens < seq.request.max_length and self._may_decode(seq, most):
                self._schedule_one(seq, 1)
        return prompts

    def _may_decode(self, seq: Sequence, most: int) -> bool:
        """The first of several stages learns a token only when the last one's result is collected."""
        return self._stages == 1 or (not seq.awaits_tokens and len(self.batch.draft.decodes) < most)

    def _schedule_urgent_prompt(self, seq: Sequence, num_behind: int) -> bool:
        """A prompt goes before less urgent decodes, lest they take its blocks; each has its token left."""
        if not self.batch.running[-1].yields_to(seq):
            return False
        spare = min(self._budget - num_behind, self._prompt_limit(num_behind, 1))
        self._schedule_one(seq, max(1, min(spare, seq.num_tokens - seq.num_computed)))
        return True

    def _prompt_limit(self, decodes: int, waiting: int) -> int:
        """Prompt tokens that those who decode hardly feel, at most what is left of the budget."""
        limit = self.pace.limit(decodes, waiting) if self._config.enable_chunked_prefill else None
        return self._budget if limit is None else min(self._budget, limit)

    def _schedule_prompts(self, prompts: list[Sequence]) -> None:
        for seq in prompts:
            self._admit_waiting(before=seq)
            if self._budget and seq.status is Status.RUNNING:
                self._schedule_one(seq, min(self._budget, seq.num_tokens - seq.num_computed))

    def _admit_waiting(self, before: Sequence | None = None) -> None:
        """Admit from the queue, as far as those that stand ``before`` a sequence."""
        if self._short_of_blocks:
            return
        waiting = self.batch.waiting
        while waiting and self._budget and (before is None or waiting[0] < before):
            seq = waiting[0]
            if seq.width > self.batch.free_places or seq.awaits_tokens:
                return
            swapped = seq.status is Status.SWAPPED
            if not (self._swap_in(seq) if swapped else self._take_prefix(seq)):
                return
            self.batch.admit(seq)
            self._schedule_one(seq, min(self._budget, seq.num_tokens - seq.num_computed))

    def _take_prefix(self, seq: Sequence) -> bool:
        """Give a waiting sequence the cached blocks of its prefix, if the rest of it fits too."""
        prefix = self._kv.find_prefix(seq)
        num_cached = len(prefix) * self._kv.block_size
        too_long = seq.num_tokens - num_cached > self._budget and not self._config.enable_chunked_prefill
        if too_long or self._kv.blocks_to_admit(seq, prefix, self._budget) > self._room():
            return False
        self._kv.begin_with(seq, prefix)
        if seq.num_cached_tokens < 0:
            seq.num_cached_tokens = num_cached
            if seq.prompt_logprobs is None:
                self._num_prefix_queries += seq.num_tokens
                self._num_prefix_hits += num_cached
        return True

    def _swap_in(self, seq: Sequence) -> bool:
        if self._kv.blocks_to_admit(seq, [], self._budget) > self._room():
            return False
        self._kv.swap_in(seq, self.batch.draft)
        return True

    def _room(self) -> int:
        """Blocks that an admission may use."""
        return self._kv.pool.num_free - self.batch.reserve(len(self.batch.running))

    def _schedule_one(self, seq: Sequence, num_new: int) -> None:
        """Put the next ``num_new`` positions of a running sequence into the step, if blocks can be had."""
        draft, start = self.batch.draft, seq.num_computed
        end = start + num_new
        new_blocks: list[int] = []
        if end > seq.writable_end:
            self._kv.publish(seq)
            if not self._make_room(seq, self._kv.blocks_wanted(seq, end)):
                return
            new_blocks = self._kv.extend(seq, end, draft)
        if seq.row_step == NO_ROW:
            draft.start_row(seq)
            seq.row_step = self._step_id
            new_blocks = []
        sample = end == seq.num_tokens
        step = SequenceStep(seq.seq_id, start, num_new, sample, new_blocks)
        (draft.decodes if num_new == 1 else draft.prefills).append(step)
        self._budget -= num_new
        seq.num_computed = end
        seq.scheduled_step = self._step_id
        if sample:
            if end == seq.request.num_prompt_tokens and seq.index == 0:
                self._prompts_done.append(seq)
            seq.num_tokens += 1  # known to the runner when the step ends, to us when it is collected

    def _complete_prompts(self) -> None:
        for seq in self._prompts_done:
            self._num_prompt_tokens += seq.request.num_prompt_tokens
            self._kv.publish(seq)  # the next step may share what this one computes
            self.batch.fork(seq)
        self._prompts_done.clear()

    def _make_room(self, seq: Sequence, num_blocks: int) -> bool:
        """Preempt sequences behind ``seq`` until it can have its blocks; False when that is not enough.

        It then keeps what it has and tries again in the next step.
        """
        while num_blocks > self._kv.pool.num_free:
            self._short_of_blocks = True
            victim = self._last_unscheduled()
            if victim is None or victim.key <= seq.key:
                return False
            self._preempt(victim)
        return True

    def _preempt(self, victim: Sequence) -> None:
        self._num_preemptions += 1
        self.batch.preempt(victim, swap=self._config.preemption_mode == "swap")

    def _last_unscheduled(self) -> Sequence | None:
        for seq in reversed(self.batch.running):
            if seq.scheduled_step != self._step_id:
                return seq
        return None

    def _append(self, seq: Sequence, token: SampledToken) -> SequenceOutput:
        seq.token_ids.append(token.token_id)
        self._num_generation_tokens += 1
        length, request = len(seq.token_ids), seq.request
        reason: FinishReason | None = None
        if token.token_id in request.stop_ids and length > request.min_length:
            reason = "stop"
        elif length >= request.max_length:
            reason = "length"
        if reason is not None:
            self.batch.finish(seq)
        prompt_logprobs, seq.prompt_logprobs = seq.prompt_logprobs, None
        return SequenceOutput(
            request.request_id,
            seq.index,
            [token.token_id],
            None if token.logprobs is None else [token.logprobs],
            reason,
            token.token_id if reason == "stop" else None,
            seq.num_cached_tokens,
            prompt_logprobs,
        )

    def _fail(self, seq_id: int, sentence: str) -> list[SequenceOutput]:
        """End a sequence that the runner could not serve, and those that would have forked from it."""
        seq = self.batch.sequences.get(seq_id)
        if seq is None:
            return []
        self.batch.finish(seq)
        self._kv.disown(seq)  # at the end, as the end publishes; else all who share the prompt fail too
        name, indices = seq.request.request_id, range(seq.index, seq.index + seq.width)
        return [SequenceOutput(name, index, [], finish_reason="error", error=sentence) for index in indices]
