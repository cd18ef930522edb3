"""The part that the four families share: the σ contract, the cache of prompt embeddings, decoding."""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError
from noria.core.models.flow import SigmaContract
from noria.distill.adapters import Condition, no_source_sigma

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
"""Projections of joint attention, named alike in all four families."""


class EmbeddingCache:
    """Text embeddings by the content of the prompt, least recently used dropped first.

    Rows are kept in host memory: one row of a real model takes megabytes.

    Args:
        max_bytes: bytes that the rows may take together. The newest row stays even when it alone is larger.
    """

    def __init__(self, max_bytes: int = 2**30) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._rows: OrderedDict[str, Condition] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, prompt: str) -> Condition | None:
        """The row of `prompt`, which thereby becomes the most recent."""
        key = self._key(prompt)
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def put(self, prompt: str, row: Condition) -> None:
        """Keep the row of `prompt`, making room for it."""
        key = self._key(prompt)
        if key in self._rows:
            return
        self._rows[key] = {name: value.detach().cpu() for name, value in row.items()}
        self.bytes += _bytes(row)
        while self.bytes > self.max_bytes and len(self._rows) > 1:
            self.bytes -= _bytes(self._rows.popitem(last=False)[1])

    @staticmethod
    def _key(prompt: str) -> str:
        return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


class PipelineAdapter(ABC):
    """A :class:`~noria.distill.adapters.FlowAdapter` over a diffusers text-to-image pipeline.

    Latents are what the pipeline's denoising loop holds, so that a grid run through the adapter and the same grid
    run by the pipeline give the same numbers. The pipeline's scheduler is replaced by the student's: the same, less
    `shift_terminal`, which would stretch a few-step grid until its last step were nearly nothing.

    Attributes:
        pipeline: the diffusers pipeline; its transformer is `network`.
        scheduler: the student's scheduler.
        mu: the resolution-dependent μ of this image size, None where the family has none.
        folder: folder that the pipeline was read from.
        source: the model as the user named it.
        variant: variant of the weight files that were read; None for the plain ones.
        size: image height and width in pixels.
        call: keyword arguments that make the pipeline's own call run a student: no guidance, no rewriting of prompts.
        notes: changes made on loading, for reports and model cards.
    """

    pipeline_class: ClassVar[str]
    feed_forward: ClassVar[tuple[str, ...]]
    left_out: ClassVar[tuple[str, ...]] = ()
    """Components that only the pipeline's own call uses; not loaded."""
    may_lack: ClassVar[tuple[str, ...]] = ()
    """Components that the pipeline does without where `model_index.json` has none."""

    def __init__(
        self,
        pipeline: Any,
        *,
        folder: Path,
        source: str,
        variant: str | None = None,
        height: int | None = None,
        width: int | None = None,
        lora_feed_forward: bool = False,
        cache_bytes: int = 2**30,
    ) -> None:
        self.name = self.pipeline_class.removesuffix("Pipeline")
        self.pipeline = pipeline
        self.folder, self.source, self.variant = folder, source, variant
        self.network: nn.Module = pipeline.transformer.eval().requires_grad_(False)
        self.lora_targets: list[str] = [*ATTENTION, *(self.feed_forward if lora_feed_forward else [])]
        self.notes: list[str] = []
        default = int(pipeline.default_sample_size) * int(pipeline.vae_scale_factor)
        self.size: tuple[int, int] = (height or default, width or default)
        self._check_size()
        self.call: dict[str, Any] = {"height": self.size[0], "width": self.size[1], **self._student_call()}
        self.latent_shape: tuple[int, ...] = self._latent_shape()
        self.scheduler: Any = self._student_scheduler()
        self.mu = self._mu()
        self.contract = SigmaContract.from_scheduler(self.scheduler.config, mu=self.mu)
        self.contract.check(self.scheduler, mu=self.mu)
        pipeline.scheduler = self.scheduler
        self.notes += [
            f"the pipeline has no {name}, and neither teacher nor student reads its text"
            for name in self.may_lack
            if name.startswith("text_encoder") and getattr(pipeline, name) is None
        ]
        self.cache = EmbeddingCache(cache_bytes)
        self._null: Condition | None = None

    # -- what a family says about itself ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def pixel_step(self) -> int:
        """Height and width must be multiples of this."""

    @property
    @abstractmethod
    def image_tokens(self) -> int:
        """Tokens of one image, from which the pipeline computes μ."""

    @abstractmethod
    def _latent_shape(self) -> tuple[int, ...]: ...

    @abstractmethod
    def _student_call(self) -> dict[str, Any]: ...

    @abstractmethod
    def _embed(self, prompt: str) -> Condition:
        """Run the text encoders on one prompt; a batch of one."""

    @abstractmethod
    def _forward(self, network: nn.Module, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Call `network` on `x`, already of its dtype, as the pipeline's loop does; `sigma` is true and float32."""

    @abstractmethod
    def _unpack(self, latents: Tensor) -> Tensor:
        """Latents as the VAE takes them, scale and shift undone."""

    # -- the protocol -------------------------------------------------------------------------------------------------

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Text conditioning of `prompts`, [batch, ...] each.

        A prompt is encoded alone, whatever else is in the batch, so that its embedding does not depend on what
        happened to be cached and a resumed run sees the same bits.
        """
        rows = []
        for prompt in prompts:
            row = self.cache.get(prompt)
            if row is None:
                row = self._embed_one(prompt)
                self.cache.put(prompt, row)
            rows.append(row)
        return {name: torch.cat([row[name] for row in rows]).to(self.device) for name in rows[0]}

    def null(self, batch: int) -> Condition:
        """The empty prompt, `batch` times. The rows share memory: do not write to them."""
        self._null = {n: v.to(self.device) for n, v in (self._null or self._embed_one("")).items()}
        return {name: value.expand(batch, *value.shape[1:]) for name, value in self._null.items()}

    def velocity(
        self,
        network: nn.Module,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        source_sigma: Tensor | None = None,
    ) -> Tensor:
        """Velocity [batch, *latent_shape] in float32 at float32 `x` and true `sigma` [batch], one a sample.

        Raises:
            ConfigError: `source_sigma` is given; no pretrained transformer takes it.
        """
        if source_sigma is not None:
            raise no_source_sigma(self.name)
        dtype = network_dtype(network)
        condition = {n: v.to(dtype) if v.is_floating_point() else v for n, v in condition.items()}
        return self._forward(network, x.to(dtype), sigma.float(), condition).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [batch, 3, height, width] in [0, 1], float32. One at a time, to bound the VAE's memory."""
        vae = self.pipeline.vae
        images = []
        for one in self._unpack(latents.float()):
            image: Tensor = vae.decode(one[None].to(vae.device, vae.dtype), return_dict=False)[0]
            images.append((image.reshape(1, 3, *image.shape[-2:]).float() / 2 + 0.5).clamp(0, 1))
        return torch.cat(images)

    # -- helpers ------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Device of the network; conditions are handed out there."""
        return next(self.network.parameters()).device

    @property
    def text_device(self) -> torch.device:
        """Device of the text encoders and the VAE: they stay behind when a trainer moves the network."""
        device: torch.device = self.pipeline.vae.device
        return device

    def timestep(self, sigma: Tensor, dtype: torch.dtype) -> Tensor:
        """The number that transformers with their own factor of 1000 are given, rounded as the pipeline rounds it.

        The pipeline's loop casts σ · 1000 to the latents' dtype and divides by 1000; in bfloat16 that is not σ.
        """
        return (sigma * self.contract.train_timesteps).to(dtype) / 1000

    def _embed_one(self, prompt: str) -> Condition:
        with torch.no_grad():
            return {name: value.detach() for name, value in self._embed(prompt).items()}

    def _check_size(self) -> None:
        for name, pixels in zip(("height", "width"), self.size, strict=True):
            if pixels < self.pixel_step or pixels % self.pixel_step:
                raise ConfigError(
                    f"{name} {pixels} is not a multiple of {self.pixel_step}, the pixels a latent token covers",
                    where=name,
                    mend=f"use {max(1, round(pixels / self.pixel_step)) * self.pixel_step}",
                )

    def _student_scheduler(self) -> Any:
        scheduler = self.pipeline.scheduler
        kind = type(scheduler).__name__
        if kind != "FlowMatchEulerDiscreteScheduler":
            raise ConfigError(
                f"the pipeline samples with {kind}, but a student is trained for plain Euler steps",
                where="scheduler",
                mend="give it a FlowMatchEulerDiscreteScheduler",
            )
        if scheduler.config.get("stochastic_sampling"):
            raise ConfigError(
                "the scheduler samples stochastically, but a student is trained for the ODE",
                where="scheduler config",
                mend="set stochastic_sampling to false in scheduler_config.json",
            )
        if scheduler.config.get("shift_terminal"):
            self.notes.append(
                f"shift_terminal {scheduler.config['shift_terminal']} dropped from the scheduler: it would stretch a "
                "few-step grid by its last entry"
            )
        return type(scheduler).from_config(scheduler.config, shift_terminal=None)

    def _mu(self) -> float | None:
        config = self.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return None
        # The pipeline's own module knows the formula; the families differ in the default of max_shift only.
        module = importlib.import_module(type(self.pipeline).__module__)
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        return float(module.calculate_shift(self.image_tokens, *(config[name] for name in names)))


def network_dtype(network: nn.Module) -> torch.dtype:
    """The floating type a network computes in: that of its first weight that is no LoRA matrix."""
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point() and "lora_" not in name:
            return parameter.dtype
    return torch.float32


def _bytes(row: Condition) -> int:
    return sum(value.numel() * value.element_size() for value in row.values())
