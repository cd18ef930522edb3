"""LongCat-Image: packed latents, one text encoder of fixed length, σ itself is the timestep."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from noria.distill.adapters import Condition
from noria.distill.integrations.diffusers.packed import PackedAdapter


class LongCatImageAdapter(PackedAdapter):
    """Adapter of `LongCatImagePipeline`.

    The transformer multiplies the timestep by 1000 itself. Position ids stay float32 whatever the network's dtype:
    image positions start at 512, where bfloat16 no longer tells neighbours apart.
    """

    pipeline_class = "LongCatImagePipeline"
    feed_forward = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp")
    left_out = ("text_processor",)  # rewrites prompts with the text encoder; needs torchvision

    def _student_call(self) -> dict[str, Any]:
        # The student is trained on the prompts as they are.
        return {"guidance_scale": 1.0, "enable_prompt_rewrite": False}

    def _embed(self, prompt: str) -> Condition:
        embeds, _ = self.pipeline.encode_prompt([prompt])
        return {"embeds": embeds}

    def _forward(self, network: nn.Module, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        positions = importlib.import_module(type(self.pipeline).__module__).prepare_pos_ids
        start = int(self.pipeline.tokenizer_max_length)
        rows, columns = self.grid
        text_ids = positions(modality_id=0, type="text", start=(0, 0), num_token=condition["embeds"].shape[1])
        image_ids = positions(modality_id=1, type="image", start=(start, start), height=rows, width=columns)
        out: Tensor = network(
            hidden_states=x,
            timestep=self.timestep(sigma, x.dtype),
            guidance=None,
            encoder_hidden_states=condition["embeds"],
            txt_ids=text_ids.to(x.device),
            img_ids=image_ids.to(x.device),
            return_dict=False,
        )[0]
        return out
