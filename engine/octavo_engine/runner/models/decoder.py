"""The decoder that most families are: RMSNorm before attention and a gated MLP, RoPE, grouped queries.

What differs between them stands in their :class:`DecoderConfig`: biases, q/k norm, windows, activation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.inputs import ForwardInputs
from octavo_engine.runner.kernels.fp8 import Activation
from octavo_engine.runner.kv_cache import LayerCache
from octavo_engine.runner.layers.cache_scales import CacheScales
from octavo_engine.runner.layers.context import LayerContext
from octavo_engine.runner.layers.embedding import VocabParallelEmbedding
from octavo_engine.runner.layers.linear import ColumnParallelLinear, RowParallelLinear
from octavo_engine.runner.layers.norm import RMSNorm
from octavo_engine.runner.layers.rotary import RotaryTable
from octavo_engine.runner.weights.slots import WeightSlot

Rotation = tuple[Tensor, Tensor]


class Attention(nn.Module):
    def __init__(self, config: DecoderConfig, ctx: LayerContext, window: int | None) -> None:
        super().__init__()
        self._dim, self._ops, self._window, self._eps = config.head_dim, ctx.ops, window, config.rms_norm_eps
        q = ctx.shard(config.num_heads * self._dim, self._dim)
        kv = ctx.kv_shard(config.num_kv_heads, self._dim)
        self._heads, self._kv_heads = q.length // self._dim, kv.length // self._dim
        self.qkv = ColumnParallelLinear(ctx, config.hidden_size, [q, kv, kv], config.qkv_bias)
        self.out = RowParallelLinear(ctx, q, config.hidden_size, config.output_bias)
        self.q_norm = ctx.empty(self._dim) if config.qk_norm else None
        self.k_norm = ctx.empty(self._dim) if config.qk_norm else None
        self._cache_scales = CacheScales(ctx)

    def forward(self, x: Activation, rotation: Rotation, cache: LayerCache, inputs: ForwardInputs) -> Tensor:
        qkv: Tensor = self.qkv(x).view(-1, self._heads + 2 * self._kv_heads, self._dim)
        scales = self._cache_scales
        q = self._ops.rope_and_cache(
            qkv,
            *rotation,
            *cache,
            inputs.slot_mapping,
            q_weight=self.q_norm,
            k_weight=self.k_norm,
            eps=self._eps,
            k_scale=scales.keys,
            v_scale=scales.values,
        )
        attended = self._ops.paged_attention(
            q, *cache, inputs.plans[self._window], self._dim**-0.5 * scales.keys, scales.values
        )
        out: Tensor = self.out(attended.flatten(1))
        return out

    def slots(self, name: str) -> dict[str, WeightSlot]:
        qkv = self.qkv.slots(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj")
        norms = {f"{name}.q_norm.weight": self.q_norm, f"{name}.k_norm.weight": self.k_norm}
        normed = {key: WeightSlot(weight) for key, weight in norms.items() if weight is not None}
        return qkv | normed | self.out.slots(f"{name}.o_proj") | self._cache_scales.slots(name)


class GatedMLP(nn.Module):
    def __init__(self, config: DecoderConfig, ctx: LayerContext) -> None:
        super().__init__()
        self._activation = config.activation
        shard = ctx.shard(config.intermediate_size)
        self.gate_up = ColumnParallelLinear(ctx, config.hidden_size, [shard, shard], config.mlp_bias)
        self.down = RowParallelLinear(ctx, shard, config.hidden_size, config.mlp_bias)

    def forward(self, x: Activation) -> Tensor:
        out: Tensor = self.down(self.gate_up.gated(x, self._activation, fp8=self.down.takes_fp8))
        return out

    def slots(self, name: str) -> dict[str, WeightSlot]:
        gate_up = self.gate_up.slots(f"{name}.gate_proj", f"{name}.up_proj")
        return gate_up | self.down.slots(f"{name}.down_proj")


class DecoderLayer(nn.Module):
    def __init__(self, config: DecoderConfig, ctx: LayerContext, index: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(ctx, config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, ctx, config.window_of(index))
        self.mlp_norm = RMSNorm(ctx, config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config, ctx)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        rotation: Rotation,
        cache: LayerCache,
        inputs: ForwardInputs,
    ) -> tuple[Tensor, Tensor]:
        fp8 = self.attention.qkv.takes_fp8
        if residual is None:
            normed, residual = self.attention_norm(x, fp8=fp8), x
        else:
            normed, residual = self.attention_norm.add(x, residual, fp8=fp8)
        x = self.attention(normed, rotation, cache, inputs)
        normed, residual = self.mlp_norm.add(x, residual, fp8=self.mlp.gate_up.takes_fp8)
        return self.mlp(normed), residual

    def slots(self, name: str) -> dict[str, WeightSlot]:
        return (
            self.attention_norm.slots(f"{name}.input_layernorm")
            | self.attention.slots(f"{name}.self_attn")
            | self.mlp_norm.slots(f"{name}.post_attention_layernorm")
            | self.mlp.slots(f"{name}.mlp")
        )


class DecoderModel(nn.Module):
    """Token ids to final hidden states to logits, over a paged KV cache."""

    def __init__(self, config: DecoderConfig, ctx: LayerContext, max_model_len: int) -> None:
        super().__init__()
        first, last, self._layers = ctx.place.first, ctx.place.last, ctx.layers(config.num_layers)
        self.layers = nn.ModuleList(DecoderLayer(config, ctx, index) for index in self._layers)

        def table() -> VocabParallelEmbedding:
            return VocabParallelEmbedding(ctx, config.vocab_size, config.hidden_size)

        self._tied = config.tie_embeddings
        self.embedding = table() if first or (last and self._tied) else None
        self.norm = RMSNorm(ctx, config.hidden_size, config.rms_norm_eps) if last else None
        self.head = None if not last else self.embedding if self._tied else table()
        self._rotary = RotaryTable(config, max_model_len, ctx.device)

    def forward(self, inputs: ForwardInputs, caches: list[LayerCache]) -> Tensor:
        """Hidden states [tokens, hidden] of the step's tokens; writes their keys and values.

        Those of the last stage are normed; others are what the next stage takes as ``inputs.carried``.
        """
        rotation = self._rotary.at(inputs.positions)
        x = inputs.carried
        if x is None:
            assert self.embedding is not None
            x = self.embedding(inputs.token_ids)
        residual: Tensor | None = None
        for layer, cache in zip(self.layers, caches, strict=True):
            x, residual = layer(x, residual, rotation, cache, inputs)
        assert residual is not None
        if self.norm is None:
            return x + residual
        hidden, _ = self.norm.add(x, residual)
        assert isinstance(hidden, Tensor)
        return hidden

    def raw_logits(self, hidden: Tensor) -> Tensor:
        assert self.head is not None, "only the last stage has the head"
        return self.head.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.raw_logits(hidden).to(torch.float32)

    def weight_slots(self) -> dict[str, WeightSlot]:
        """Where each tensor of the checkpoint that this stage holds goes, by transformers' names."""
        slots = {} if self.embedding is None else self.embedding.slots("model.embed_tokens")
        if self.norm is not None:
            slots |= self.norm.slots("model.norm")
        for index, layer in zip(self._layers, self.layers, strict=True):
            assert isinstance(layer, DecoderLayer)
            slots |= layer.slots(f"model.layers.{index}")
        return slots if self._tied or self.head is None else slots | self.head.slots("lm_head")
