"""Qwen-Image: packed latents, text of any length under a mask, a video VAE used for single frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError
from noria.distill.adapters import Condition
from noria.distill.integrations.diffusers.packed import PackedAdapter

__all__ = ["QwenImageAdapter"]


class QwenImageAdapter(PackedAdapter):
    """Adapter of `QwenImagePipeline`.

    Embeddings are padded to `max_text` so that any two conditions can be stacked; a call trims the padding that no
    row of its batch uses, since a prompt is usually a tenth of that.

    Args:
        max_text: text tokens kept; 512 is the pipeline's own default.
        guidance: number that guidance-distilled transformers read, see :class:`FluxAdapter`.
    """

    pipeline_class = "QwenImagePipeline"
    feed_forward = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")

    def __init__(self, pipeline: Any, *, max_text: int = 512, guidance: float = 3.5, **settings: Any) -> None:
        if not 1 <= max_text <= 1024:
            raise ConfigError(f"max_text is {max_text}", where="max_text", mend="use 1 to 1024")
        self.max_text = max_text
        self.guidance = guidance if pipeline.transformer.config.guidance_embeds else None
        super().__init__(pipeline, **settings)

    def _student_call(self) -> dict[str, Any]:
        embedded = {} if self.guidance is None else {"guidance_scale": self.guidance}
        return {"true_cfg_scale": 1.0, "max_sequence_length": self.max_text, **embedded}

    def _embed(self, prompt: str) -> Condition:
        embeds, mask = self.pipeline.encode_prompt(
            [prompt], device=self.text_device, max_sequence_length=self.max_text
        )
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        padding = self.max_text - embeds.shape[1]
        return {
            "embeds": nn.functional.pad(embeds, (0, 0, 0, padding)),
            "mask": nn.functional.pad(mask.long(), (0, padding)),
        }

    def _forward(self, network: nn.Module, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        longest = int(condition["mask"].sum(dim=1).max())
        embeds, mask = condition["embeds"][:, :longest], condition["mask"][:, :longest]
        out: Tensor = network(
            hidden_states=x,
            timestep=self.timestep(sigma, x.dtype),
            guidance=None if self.guidance is None else torch.full_like(sigma, self.guidance),
            encoder_hidden_states_mask=None if bool(mask.all()) else mask,
            encoder_hidden_states=embeds,
            img_shapes=[[(1, *self.grid)]] * x.shape[0],
            return_dict=False,
        )[0]
        return out

    def _unpack(self, latents: Tensor) -> Tensor:
        config = self.pipeline.vae.config
        unpacked: Tensor = self.pipeline._unpack_latents(latents, *self.size, self.pipeline.vae_scale_factor)
        mean, std = (
            torch.tensor(values, device=unpacked.device, dtype=unpacked.dtype).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return unpacked * std + mean
