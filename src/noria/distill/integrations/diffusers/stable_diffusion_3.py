"""Stable Diffusion 3 and 3.5: unpacked latents, three text encoders, the timestep is σ · 1000."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noria.distill.adapters import Condition
from noria.distill.integrations.diffusers.pipeline_adapter import PipelineAdapter


class StableDiffusion3Adapter(PipelineAdapter):
    """Adapter of `StableDiffusion3Pipeline`; latents [channels, height / 8, width / 8]."""

    pipeline_class = "StableDiffusion3Pipeline"
    feed_forward = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
    left_out = ("image_encoder", "feature_extractor")
    may_lack = ("text_encoder_3", "tokenizer_3")  # T5, whose embeddings are zeros then

    @property
    def pixel_step(self) -> int:
        """One token is `patch_size` latents wide."""
        return int(self.pipeline.vae_scale_factor) * int(self.pipeline.patch_size)

    @property
    def image_tokens(self) -> int:
        """Patches of the latent."""
        return (self.size[0] // self.pixel_step) * (self.size[1] // self.pixel_step)

    def _latent_shape(self) -> tuple[int, ...]:
        factor = int(self.pipeline.vae_scale_factor)
        return (
            int(self.pipeline.transformer.config.in_channels),
            self.size[0] // factor,
            self.size[1] // factor,
        )

    def _student_call(self) -> dict[str, Any]:
        return {"guidance_scale": 1.0}

    def _embed(self, prompt: str) -> Condition:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, None, None, device=self.text_device, do_classifier_free_guidance=False
        )
        return {"embeds": embeds, "pooled": pooled}

    def _forward(self, network: nn.Module, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        out: Tensor = network(
            hidden_states=x,
            timestep=sigma * self.contract.train_timesteps,
            encoder_hidden_states=condition["embeds"],
            pooled_projections=condition["pooled"],
            return_dict=False,
        )[0]
        return out

    def _unpack(self, latents: Tensor) -> Tensor:
        config = self.pipeline.vae.config
        return torch.add(latents / config.scaling_factor, config.shift_factor or 0.0)
