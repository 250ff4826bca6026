"""What one rank holds of a model's attention."""

from __future__ import annotations

from octavo_engine.runner.architecture import DecoderConfig
from octavo_engine.runner.kernels.ops import HeadShape
from octavo_engine.runner.kv_cache import CacheShape
from octavo_engine.runner.layers.context import LayerContext


def cache_shape(config: DecoderConfig, ctx: LayerContext, block_size: int) -> CacheShape:
    kv_heads = ctx.kv_shard(config.num_kv_heads, config.head_dim).length // config.head_dim
    layers = len(ctx.layers(config.num_layers))
    return CacheShape(layers, block_size, kv_heads, config.head_dim, ctx.cache_dtype or ctx.dtype)


def head_shape(config: DecoderConfig, ctx: LayerContext) -> HeadShape:
    """The attention heads of this rank."""
    heads = ctx.shard(config.num_heads * config.head_dim, config.head_dim).length // config.head_dim
    return HeadShape(heads, cache_shape(config, ctx, 1).kv_heads, config.head_dim)
