"""Real models: flow adapters over diffusers text-to-image pipelines.

:func:`open_pipeline` opens a pipeline folder or hub repository and picks the adapter from the pipeline class that its
`model_index.json` names:

| pipeline class | adapter | latents | text |
| --- | --- | --- | --- |
| `StableDiffusion3Pipeline` | :class:`StableDiffusion3Adapter` | [channels, h/8, w/8] | fixed length, pooled |
| `LongCatImagePipeline` | :class:`LongCatImageAdapter` | [tokens, channels] | fixed length |
| `FluxPipeline` | :class:`FluxAdapter` | [tokens, channels] | fixed length, pooled |
| `QwenImagePipeline` | :class:`QwenImageAdapter` | [tokens, channels] | padded, with a mask |

Nothing here runs code that a model ships, and weights are read from safetensors only.
"""

from noria.distill.integrations.diffusers.flux import FluxAdapter
from noria.distill.integrations.diffusers.loading import ADAPTERS, open_pipeline
from noria.distill.integrations.diffusers.longcat_image import LongCatImageAdapter
from noria.distill.integrations.diffusers.pipeline_adapter import PipelineAdapter
from noria.distill.integrations.diffusers.qwen_image import QwenImageAdapter
from noria.distill.integrations.diffusers.stable_diffusion_3 import StableDiffusion3Adapter

__all__ = [
    "ADAPTERS",
    "FluxAdapter",
    "LongCatImageAdapter",
    "PipelineAdapter",
    "QwenImageAdapter",
    "StableDiffusion3Adapter",
    "open_pipeline",
]
