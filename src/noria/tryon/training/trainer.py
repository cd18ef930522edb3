"""The loop: batches of encoded clips, all draws from (seed, step), a state that resumes exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError, DataError, DivergenceError
from noria.core.runs.run import Run
from noria.core.training.parallel import Parallel
from noria.core.training.updates import Updates
from noria.tryon.attention.segments import positions
from noria.tryon.pipeline.book import ChunkSegments
from noria.tryon.pipeline.captions import LONGEST, pack_actions
from noria.tryon.training.cache import WHOLE, ClipCache, EncodedClip
from noria.tryon.training.config import TrainConfig
from noria.tryon.training.objective import Batch, draw_sigmas, drop, flow_loss

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
"""Layers that LoRA adapts."""
OWN = ("guider.", ".action_gate", ".action_sink")
"""Weights that stock Wan-VACE lacks; every kind of training trains them."""


def trainable(model: Any, config: TrainConfig) -> dict[str, nn.Parameter]:
    """Switch on the weights that learn, and return them by name.

    Raises:
        MissingExtra: LoRA is wanted, and there is no peft.
    """
    model.requires_grad_(config.train == "full")
    if config.train == "lora":
        from noria.core.errors import require

        peft = require("peft", "tryon")
        torch.manual_seed(config.seed)
        model.add_adapter(
            peft.LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=list(TARGETS))
        )
    for name, value in model.named_parameters():
        if any(part in name for part in OWN):
            value.requires_grad_(True)
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def learner(pipeline: Any, expert: str | None) -> tuple[Any, tuple[float, float]]:
    """The transformer that learns, and the noise levels that it is for.

    Wan2.2 has an expert for high and one for low noise levels, which are trained apart.

    Args:
        pipeline: the models.
        expert: `high` or `low` where the pipeline has two transformers, else None.

    Raises:
        ConfigError: there are two and none is named, or one and it is named.
    """
    both = pipeline.transformer is not None and pipeline.transformer_2 is not None
    if both == (expert is None):
        problem = ("the model has two experts", "high or low: each is trained by itself")
        what, mend = problem if both else ("the model has one transformer", "nothing: leave it out")
        raise ConfigError(what, where="--expert", mend=f"give {mend}")
    if not both:
        return pipeline.transformer or pipeline.transformer_2, (0.0, 1.0)
    boundary = pipeline.config.boundary_ratio
    if boundary is None or not 0 < boundary < 1:
        raise ConfigError("no boundary_ratio between the experts in 0-1", where="model_index.json")
    if expert == "high":
        return pipeline.transformer, (boundary, 1.0)
    return pipeline.transformer_2, (0.0, boundary)


class Trainer:
    """A training of the transformer of a pipeline on clips of one size.

    Args:
        pipeline: the models; only the transformer learns.
        config: settings.
        clips: encoded clips.
        cache: encodes the captions.
        parallel: this process among those of the training.
    """

    def __init__(
        self,
        pipeline: Any,
        config: TrainConfig,
        clips: Sequence[EncodedClip],
        cache: ClipCache,
        parallel: Parallel | None = None,
    ) -> None:
        if not clips:
            raise DataError("no clip to train on", where="data")
        self.config, self.clips, self.cache = config, list(clips), cache
        self.parallel = parallel or Parallel("tryon")
        self.model, self.levels = learner(pipeline, config.expert)
        self.parameters = trainable(self.model, config)
        if config.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        self.parallel.place(self.model)
        self.model.train()
        self.share = self.parallel.share(config.batch_size)
        self.buckets = _buckets(self.clips)
        self.updates = Updates(
            self.parameters,
            prefix="tryon",
            lr=config.lr,
            betas=(0.9, 0.999),
            weight_decay=config.weight_decay,
        )
        self.state = self.updates.state

    def train(
        self,
        run: Run,
        on_step: Callable[[int, dict[str, float]], None] | None = None,
        on_strip: Callable[[int], None] | None = None,
    ) -> None:
        """Train to the last step, from the run's newest checkpoint.

        Args:
            run: the run, opened.
            on_step: called with the number and the figures of each step.
            on_strip: called at the steps at which a picture is due.

        Raises:
            DivergenceError: a loss or gradient is not finite; the last checkpoint is kept.
            CheckpointError: the run's checkpoint is of another network.
        """
        self.updates.resume(run)
        while self.state.step < self.config.steps:
            figures = self.step()
            step = self.state.step
            if step % self.config.log_every == 0 or step == self.config.steps:
                run.log(step, **figures)
            if on_step is not None:
                on_step(step, figures)
            if on_strip is not None and step % self.config.strip_every == 0:
                on_strip(step)
            if step % self.config.save_every == 0 or step == self.config.steps:
                self.state.save(run)

    def step(self) -> dict[str, float]:
        """One step; returns its figures.

        Raises:
            DivergenceError: the loss or the gradient is not finite; the weights stay as they were.
        """
        config, step = self.config, self.state.step
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        bucket = self.buckets[_weighted([len(b) for b in self.buckets], generator)]
        rows = torch.randint(len(bucket), (config.batch_size,), generator=generator).tolist()
        clips = [bucket[row] for row in rows]
        sigmas = draw_sigmas(len(clips), generator, config.sigmas, config.shift, self.levels)
        noise = torch.randn(len(clips), *clips[0].shape, generator=generator)
        batch = drop(
            self.batch(clips), generator, self._padded(""), text=config.text_drop, hands=config.hand_drop
        )
        acting = float(batch.acting.sum()) / self.parallel.processes
        batch, sigmas, noise = _rows(batch, self.share), sigmas[self.share], noise[self.share]
        device = self.parallel.device
        loss, figures = flow_loss(
            self.model,
            batch,
            sigmas.to(device),
            noise.to(device),
            weight=config.ac_weight,
            normalize=config.ac_normalize,
            acting_frames=acting,
        )
        self.updates.zero()
        loss.backward()  # type: ignore[no-untyped-call]
        self.parallel.average_gradients(self.parameters.values())
        norm = float(self.updates.clip(config.clip))
        value = float(self.parallel.mean(loss.detach()))
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise DivergenceError(
                f"the loss is {value}, the gradient's norm {norm}", where=f"step {step + 1}", mend="lower lr"
            )
        rate = config.lr * min(1.0, (step + 1) / max(1, config.warmup))
        self.updates.step(rate)
        self.state.step += 1
        return {"loss": value, "grad_norm": norm, "lr": rate} | {
            f"error_{name}": mean for name, mean in self.parallel.mean_of(figures).items()
        }

    def batch(self, clips: Sequence[EncodedClip]) -> Batch:
        """Clips of one size as the transformer takes them."""
        device, dtype = self.parallel.device, self.model.dtype
        references = clips[0].references
        texts = [self._padded(clip.record.caption) for clip in clips]
        acting = torch.stack([clip.table > 0 for clip in clips]).float()
        latents = [self.cache.latents(clip) for clip in clips]
        hands = scale = None
        known = [one.hands for one in latents if one.hands is not None]
        if self.config.use_hands and known:
            both = [torch.zeros_like(known[0]) if one.hands is None else one.hands for one in latents]
            hands = torch.stack(both).to(device, dtype)
            scale = torch.tensor([float(one.hands is not None) for one in latents], device=device)
        return Batch(
            torch.stack([one.clean for one in latents]).to(device),
            torch.stack([one.control for one in latents]).to(device, dtype),
            torch.stack(texts).to(device, dtype),
            torch.nn.functional.pad(acting, (references, 0)).to(device),
            references,
            self._actions(clips, references) if self.config.use_actions else None,
            hands,
            scale,
        )

    def _padded(self, caption: str) -> Tensor:
        states = self.cache.text(caption)
        return torch.nn.functional.pad(states, (0, 0, 0, WHOLE - len(states)))

    def _actions(self, clips: Sequence[EncodedClip], references: int) -> Any:
        encoded, segments = [], []
        for clip in clips:
            known = [n for n in dict.fromkeys(clip.table.tolist()) if n]
            queries, keys = positions(clip.table, self.model.config.arope_index)
            captions = tuple(clip.captions[n - 1] for n in known)
            encoded.append(
                [
                    self.cache.text(text, LONGEST).to(self.parallel.device, self.model.dtype)
                    for text in captions
                ]
            )
            segments.append(ChunkSegments(queries, captions, tuple(keys[n] for n in known)))
        empty = None
        if self.model.config.arope_context == "joint":
            empty = self.cache.text("", LONGEST).to(self.parallel.device, self.model.dtype)
        return pack_actions(encoded, segments, references, empty)


def _buckets(clips: Sequence[EncodedClip]) -> list[list[EncodedClip]]:
    """Clips by their size and number of garments: a batch is of one kind."""
    kinds: dict[Any, list[EncodedClip]] = {}
    for clip in clips:
        kinds.setdefault((clip.shape, clip.references), []).append(clip)
    return list(kinds.values())


def _weighted(weights: Sequence[int], generator: torch.Generator) -> int:
    return int(torch.multinomial(torch.tensor(weights, dtype=torch.float), 1, generator=generator))


def _rows(batch: Batch, share: slice) -> Batch:
    """The clips of a batch that belong to this process."""
    actions = None if batch.actions is None else type(batch.actions)(*(part[share] for part in batch.actions))
    return Batch(
        batch.clean[share],
        batch.control[share],
        batch.text[share],
        batch.acting[share],
        batch.references,
        actions,
        None if batch.hands is None else batch.hands[share],
        None if batch.hand_scale is None else batch.hand_scale[share],
    )
