"""What a generation will cost, before it runs: tokens, operations, memory; and the settings that fit a memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from noria.core.errors import ConfigError
from noria.tryon.pipeline.settings import SamplingConfig


@dataclass(frozen=True)
class Estimate:
    """Cost of a clip.

    Attributes:
        tokens: tokens of a chunk, references included.
        passes: passes of the transformer over a chunk, for all steps.
        chunks: number of chunks.
        petaflop: operations of all of it, in 10^15.
        weights_gib: weights that are held at once.
        peak_gib: weights and the activations of a pass without gradients, by the sizes of its largest tensors.
        seconds: time at a given speed, or None.
    """

    tokens: int
    passes: int
    chunks: int
    petaflop: float
    weights_gib: float
    peak_gib: float
    seconds: float | None = None


def pass_flop(config: Any, tokens: int) -> float:
    """Operations of one pass: projections and feed-forward layers of all blocks, and self-attention.

    Args:
        config: configuration of the transformer.
        tokens: number of tokens.
    """
    width = config.num_attention_heads * config.attention_head_dim
    blocks = config.num_layers + len(config.vace_layers)
    linear = (
        2 * tokens * (6 * width * width + 2 * width * config.ffn_dim)
    )  # q, k, v, out; q and out of the captions
    attention = 4 * tokens * tokens * width
    return float(blocks * (linear + attention))


def estimate(
    pipeline: Any,
    canvas: tuple[int, int],
    frames: int,
    chunks: int,
    references: int,
    sampling: SamplingConfig,
    *,
    actions: bool,
    flops: float | None = None,
    offload: bool = False,
    tiling: bool = False,
) -> Estimate:
    """Cost of a clip.

    Args:
        pipeline: the models, with or without their weights.
        canvas: height and width that the model sees.
        frames: frames of a chunk.
        chunks: number of chunks.
        references: number of garment pictures.
        sampling: settings.
        actions: whether there are timed actions.
        flops: operations a second that the machine reaches, for the time.
        offload: whether only the model that is running is held.
        tiling: whether the autoencoder works on tiles.
    """
    model = pipeline.transformer or pipeline.transformer_2
    config = model.config
    latent = (frames - 1) // 4 + 1 + references
    tokens = latent * (canvas[0] // 16) * (canvas[1] // 16)
    guided = round(sampling.guided_share * sampling.steps)
    calls = 1 + (sampling.guidance > 1) + (actions and sampling.action_guidance is not None)
    passes = sampling.steps + guided * (calls - 1)
    modules = (pipeline.transformer, pipeline.transformer_2, pipeline.vae, pipeline.text_encoder)
    sizes = [sum(p.numel() * p.element_size() for p in m.parameters()) for m in modules if m is not None]
    weights = max(sizes) if offload else sum(sizes)
    width = config.num_attention_heads * config.attention_head_dim
    size = next(model.parameters()).element_size()
    # Two streams, the hints of all VACE layers, q, k, v and the feed-forward layer's inner width.
    held = tokens * size * (width * (2 + len(config.vace_layers) + 4) + 2 * config.ffn_dim)
    # The autoencoder's widest map: the canvas or a tile of it, two frames of its first width in float32.
    height, width = canvas
    if tiling:
        height = min(height, pipeline.vae.tile_sample_min_height)
        width = min(width, pipeline.vae.tile_sample_min_width)
    decoder = height * width * 8 * pipeline.vae.config.base_dim * 4 * 4
    work = passes * chunks * pass_flop(config, tokens)
    peak = weights + max(held, decoder)
    gib = 2.0**30
    seconds = None if flops is None else work / flops
    return Estimate(tokens, passes, chunks, work / 1e15, weights / gib, peak / gib, seconds)


def fitting(costs: Any, sampling: SamplingConfig, memory_gib: float, pixels: int) -> SamplingConfig:
    """The settings with the most pixels, then the longest chunks, that fit a memory.

    Args:
        costs: gives the estimate of settings.
        sampling: settings to begin with.
        memory_gib: memory in GiB.
        pixels: pixels of the canvas that `sampling` gives.

    Raises:
        ConfigError: not even the smallest settings fit.
    """
    frames = [n for n in (sampling.chunk_frames, 81, 49, 33, 17) if n <= sampling.chunk_frames]
    for share in (1.0, 0.75, 0.5, 0.35, 0.25, 0.125):
        for chunk in dict.fromkeys(frames):
            overlap = min(sampling.chunk_overlap, chunk - 4)
            values = {
                "most_pixels": sampling.most_pixels if share == 1 else max(256, int(pixels * share)),
                "chunk_frames": chunk,
                "chunk_overlap": overlap,
            }
            tried = sampling.model_copy(update=values)
            if costs(tried).peak_gib <= memory_gib:
                return tried
    raise ConfigError(
        f"not even {tried.most_pixels:,} pixels and {chunk} frames at once fit {memory_gib:g} GiB",
        where="--memory",
        mend="use a smaller model, --precision bf16, or a larger machine",
    )
