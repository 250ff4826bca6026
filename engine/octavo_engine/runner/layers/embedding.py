"""The token embedding and the language-model head, split over the vocabulary."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.weights.slots import Shard, WeightSlot


class VocabParallelEmbedding(nn.Module):
    """Rows ``shard`` of a [vocab, hidden] table; also the head of a model with tied embeddings.

    A vocabulary that the world size does not divide is padded with zero rows, which no logit ever shows.
    """

    def __init__(self, ctx: LayerContext, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self._group = ctx.group
        self._ops = ctx.ops
        self._vocab_size = vocab_size
        rows = -(-vocab_size // ctx.group.world_size)
        start = min(ctx.group.rank * rows, vocab_size)
        self._shard = Shard(start, min(rows, vocab_size - start))
        self.weight = ctx.empty(rows, hidden_size)
        self.weight.data[self._shard.length :].zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [tokens] -> embeddings [tokens, hidden]."""
        if self._group.world_size == 1:
            return F.embedding(tokens, self.weight)
        local = tokens - self._shard.start
        outside = (local < 0) | (local >= self._shard.length)
        found = F.embedding(local.masked_fill(outside, 0), self.weight)
        return self._group.all_reduce(found.masked_fill(outside[:, None], 0))

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [n, hidden] -> logits [n, vocab] in the model's dtype, complete on every rank."""
        local = self._ops.linear(hidden, self.weight, None)
        return self._group.all_gather(local)[:, : self._vocab_size]

    def slots(self, name: str) -> dict[str, WeightSlot]:
        return {f"{name}.weight": WeightSlot(self.weight[: self._shard.length], 0, self._shard)}
