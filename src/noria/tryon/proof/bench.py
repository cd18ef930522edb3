"""Cost of what is added to the stock model, and gain of the person's part alone, both sides in CPU seconds.

Weights are random: these are figures of speed and of memory, and say nothing of quality.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noria.core.proofs.bench import Benchmark, Row

STOCK = "diffusers' WanVACETransformer3DModel"
PIPELINE = "diffusers' WanVACEPipeline"
SIZES: dict[str, Any] = {
    "num_attention_heads": 6,
    "attention_head_dim": 64,
    "text_dim": 64,
    "freq_dim": 64,
    "ffn_dim": 1536,
    "num_layers": 4,
    "vace_layers": [0, 2],
}
CAPTION, TOKENS = 128, 64
"""Tokens of the global caption, as of one of 80 words, and of all actions."""
CLIPS = 100
LENGTHS = (40, 81)
"""Frames of the clips whose features are measured: short ones, and those that Wan makes at once."""


def benchmarks(*, rounds: int = 30) -> Benchmark:
    """All rows; a step of the transformer, a clip, the Fréchet distance of 100 clips.

    Args:
        rounds: timed turns of each side of a step; clips take a fifth of them.
    """
    import torch

    from noria.core.proofs.bench import Benchmark

    torch.set_num_threads(1)
    with torch.no_grad():
        rows = [*step_rows(rounds), *clip_rows(max(2, rounds // 5)), *feature_rows(max(2, rounds // 10))]
    return Benchmark("tryon", rows)


def alternating(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int
) -> tuple[list[float], list[float]]:
    """CPU seconds of each turn of both sides, after one untimed turn; which goes first changes from turn to turn."""
    ours()
    theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        sides = [(ours, times[0]), (theirs, times[1])]
        for side, seconds in sides if turn % 2 == 0 else sides[::-1]:
            began = time.process_time()
            side()
            seconds.append(time.process_time() - began)
    return times


def step_rows(rounds: int) -> Iterator[Row]:
    """A step with actions in both contexts, and one with hands, against a step of the stock model."""
    import torch
    from diffusers import WanVACETransformer3DModel

    from noria.core.proofs.bench import Row
    from noria.tryon.model.transformer import ITryOnTransformer3DModel

    stock = WanVACETransformer3DModel(**SIZES).eval()
    draw = torch.Generator().manual_seed(0)
    frames, side = 6, 24
    given = {
        "hidden_states": torch.randn(1, 16, frames, side, side, generator=draw),
        "timestep": torch.tensor([500]),
        # A caption padded to 512 tokens with zeros, as Wan's pipeline gives it.
        "encoder_hidden_states": torch.nn.functional.pad(
            torch.randn(1, CAPTION, 64, generator=draw), (0, 0, 0, 512 - CAPTION)
        ),
        "control_hidden_states": torch.randn(1, 96, frames, side, side, generator=draw),
    }
    actions = {
        "action_hidden_states": torch.randn(1, TOKENS, 64, generator=draw),
        "action_positions": torch.arange(1, 5).repeat_interleave(TOKENS // 4)[None],
        "query_positions": torch.tensor([[0, 1, 2, 0, 3, 4]]),
    }
    hands = torch.randn(1, 17, frames, side, side, generator=draw)
    for name, context, goal in (("A-RoPE, joint", "joint", 1.03), ("A-RoPE, decoupled", "decoupled", 1.06)):
        model = ITryOnTransformer3DModel(**SIZES, arope_context=context).eval()
        step = functools.partial(model, **given, **actions)
        ours, theirs = alternating(step, lambda: stock(**given), rounds)
        yield Row.of(f"step with {name}", STOCK, "CPU s", ours, theirs, better="lower", goal=1 / goal)
    model = ITryOnTransformer3DModel(**SIZES).eval()
    tokens = model.encode_hands(hands)  # once a clip, as the pipeline does
    ours, theirs = alternating(lambda: model(**given, hand_tokens=tokens), lambda: stock(**given), rounds)
    yield Row.of("step with the Guider", STOCK, "CPU s", ours, theirs, better="lower", goal=1 / 1.05)


def clip_rows(rounds: int) -> Iterator[Row]:
    """A clip by the person's part, against the whole frame by the stock pipeline; time, and peak memory a frame."""
    import numpy as np
    import torch
    from diffusers import WanVACEPipeline
    from PIL import Image

    from noria.core.proofs.bench import Row, peak_memory
    from noria.tryon.pipeline.loading import tiny_pipeline
    from noria.tryon.pipeline.long import Order, dress
    from noria.tryon.pipeline.settings import SamplingConfig
    from noria.tryon.video.clips import Clip

    pipeline = tiny_pipeline(num_attention_heads=4, attention_head_dim=32, ffn_dim=512, num_layers=6)
    pipeline.set_progress_bar_config(disable=True)
    stock = WanVACEPipeline(**pipeline.components)
    stock.set_progress_bar_config(disable=True)
    draw = np.random.default_rng(0)
    frames, height, width = 17, 160, 288
    pixels = draw.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    mask = torch.zeros(frames, height, width, dtype=torch.bool)
    mask[:, 48:128, 110:180] = True
    garment = draw.integers(0, 256, (96, 64, 3), dtype=np.uint8)
    order = Order(
        Clip(pixels, np.arange(frames) / 16, frames / 16, Path("clip")), mask, [garment], "a person"
    )
    sampling = SamplingConfig(steps=4, guidance=5.0)
    video, masks = (
        [Image.fromarray(p) for p in pixels],
        [Image.fromarray(m.byte().numpy() * 255) for m in mask],
    )
    states = torch.zeros(1, 512, 16)

    def theirs() -> object:
        return stock(
            prompt_embeds=states,
            negative_prompt_embeds=states,
            video=video,
            mask=masks,
            reference_images=[Image.fromarray(garment)],
            height=height,
            width=width,
            num_frames=frames,
            num_inference_steps=4,
            output_type="np",
        )

    def ours() -> object:
        return dress(pipeline, order, sampling)

    times = alternating(ours, theirs, rounds)
    yield Row.of("clip by the person's part", PIPELINE, "CPU s", *times, better="lower", goal=1.5)
    memory = [peak_memory(side) / frames / 2**20 for side in (ours, theirs)]
    yield Row.of("peak memory", PIPELINE, "MiB a frame", memory[:1], memory[1:], better="lower", goal=1.0)


def feature_rows(rounds: int) -> Iterator[Row]:
    """Features of 100 clips, against opening a clip for each of its windows, as CatV2TON's script does."""
    import numpy as np

    from noria.core.proofs.bench import Row
    from noria.tryon.evaluation.videos import PixelFeatures, moments, windows
    from noria.tryon.video.clips import encode_clip, read_clip

    draw = np.random.default_rng(0)
    for length in LENGTHS:
        with tempfile.TemporaryDirectory(prefix="noria-bench-") as folder:
            paths = [Path(folder) / f"{n:03d}.mp4" for n in range(CLIPS)]
            for path in paths:
                frames = draw.integers(0, 256, (length, 12, 16, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
                path.write_bytes(encode_clip(frames, [n / 16 for n in range(length)], crf=30))
            starts = sorted({*range(0, length - 9, 10), length - 10})

            def ours(paths: list[Path] = paths) -> object:
                return moments(
                    (part for path in paths for part in windows(read_clip(path).frames, 10)), PixelFeatures()
                )

            def theirs(paths: list[Path] = paths, starts: list[int] = starts) -> object:
                return moments((_window(path, start) for path in paths for start in starts), PixelFeatures())

            times = alternating(ours, theirs, rounds)
        what = f"video features of 100 clips of {length} frames"
        yield Row.of(what, "opened for each window", "CPU s", *times, better="lower", goal=3.0)


def _window(path: Path, start: int, length: int = 10) -> Any:
    """One window of a clip that is opened for it, and decoded up to its end."""
    import av
    import numpy as np
    import torch

    frames: list[Any] = []
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number >= start:
                frames.append(
                    frame.to_ndarray(format="rgb24", threads=1)
                )  # its best setting, which is ours, too
            if len(frames) == length:
                break
    return torch.tensor(np.stack(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1
