"""Flux: packed latents, T5 tokens and a pooled CLIP vector; FLUX.1-dev takes its guidance as an input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from noria.distill.adapters import Condition
from noria.distill.integrations.diffusers.packed import PackedAdapter

__all__ = ["FluxAdapter"]


class FluxAdapter(PackedAdapter):
    """Adapter of `FluxPipeline`.

    A guidance-distilled transformer (`guidance_embeds`) reads a guidance number as it reads the timestep. Teacher,
    student and critic read the same one; it is exported as the student's default. It is not classifier-free guidance:
    one call a step either way.

    Args:
        guidance: guidance number; 3.5 is the pipeline's default. Ignored where the transformer has no such input.
    """

    pipeline_class = "FluxPipeline"
    feed_forward = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp")
    left_out = ("image_encoder", "feature_extractor")

    def __init__(self, pipeline: Any, *, guidance: float = 3.5, **settings: Any) -> None:
        self.guidance = guidance if pipeline.transformer.config.guidance_embeds else None
        super().__init__(pipeline, **settings)

    def _student_call(self) -> dict[str, Any]:
        embedded = {} if self.guidance is None else {"guidance_scale": self.guidance}
        return {"true_cfg_scale": 1.0, **embedded}

    def _embed(self, prompt: str) -> Condition:
        embeds, pooled, _ = self.pipeline.encode_prompt(prompt, device=self.text_device)
        return {"embeds": embeds, "pooled": pooled}

    def _forward(self, network: nn.Module, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        rows, columns = self.grid
        image_ids = self.pipeline._prepare_latent_image_ids(1, rows, columns, x.device, torch.float32)
        guidance = None if self.guidance is None else torch.full_like(sigma, self.guidance)
        out: Tensor = network(
            hidden_states=x,
            timestep=self.timestep(sigma, x.dtype),
            guidance=guidance,
            pooled_projections=condition["pooled"],
            encoder_hidden_states=condition["embeds"],
            txt_ids=torch.zeros(condition["embeds"].shape[1], 3, device=x.device),
            img_ids=image_ids,
            return_dict=False,
        )[0]
        return out
