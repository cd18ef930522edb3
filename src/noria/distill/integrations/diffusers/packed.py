"""The part that the token models share: latents packed into 2 × 2 patches, [tokens, channels]."""

from __future__ import annotations

import torch
from torch import Tensor

from noria.distill.integrations.diffusers.pipeline_adapter import PipelineAdapter

__all__ = ["PackedAdapter"]


class PackedAdapter(PipelineAdapter):
    """A family whose denoising loop holds packed tokens."""

    @property
    def pixel_step(self) -> int:
        """One token covers 2 × 2 latents."""
        return 2 * int(self.pipeline.vae_scale_factor)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.size[0] // self.pixel_step, self.size[1] // self.pixel_step

    @property
    def image_tokens(self) -> int:
        """Rows times columns."""
        return self.grid[0] * self.grid[1]

    def _latent_shape(self) -> tuple[int, ...]:
        return self.image_tokens, int(self.pipeline.transformer.config.in_channels)

    def _unpack(self, latents: Tensor) -> Tensor:
        config = self.pipeline.vae.config
        unpacked: Tensor = self.pipeline._unpack_latents(latents, *self.size, self.pipeline.vae_scale_factor)
        return torch.add(unpacked / config.scaling_factor, config.shift_factor or 0.0)
