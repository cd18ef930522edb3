"""Interactive video virtual try-on: hands and timed actions drive the garment.

The paper is iTryOn (Zheng et al. 2026, arXiv 2605.21431), which trains Wan2.1-VACE to dress the person of a video in
another garment while the person unzips, lifts or adjusts it. Neither code nor weights are published; where the paper
is silent, a docstring says "reconstructed".

Read in this order:

| room | what it is |
| --- | --- |
| `actions` | what a user says: timed actions from files, from contact; whether they fit a garment |
| `attention` | the mathematics: `segments` of a clip, the `rotary` embedding A-RoPE, the action-aware `constraint` |
| `video`, `hands` | clips, sizes and masks; joints of hands, their repair and their picture |
| `estimators` | hands, poses and masks of a clip's person by MediaPipe's networks |
| `model` | `ITryOnTransformer3DModel` on diffusers' `WanVACETransformer3DModel` |
| `pipeline` | `conditions`, `ITryOnPipeline`, `long` clips by chunks, an `estimate` before a run |
| `training` | the `objective`, manifests, caches by content, the `trainer` |
| `evaluation` | metrics of pictures, videos and interaction |
| `integrations` | an annotator that is a vision-language model |
| `verbs` | the verbs of `noria tryon` |
| `proof` | a procedural world, the paper's `claims` on it, the `bench` |

Importing this package is light; a name below brings its module, and with it PyTorch, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.tryon.actions.reading import Action as Action, read_actions as read_actions
    from noria.tryon.model.transformer import ITryOnTransformer3DModel as ITryOnTransformer3DModel
    from noria.tryon.pipeline.conditions import Conditions as Conditions
    from noria.tryon.pipeline.loading import open_pipeline as open_pipeline
    from noria.tryon.pipeline.long import Order as Order, dress as dress
    from noria.tryon.pipeline.pipeline import ITryOnPipeline as ITryOnPipeline
    from noria.tryon.pipeline.settings import SamplingConfig as SamplingConfig
    from noria.tryon.training.config import TrainConfig as TrainConfig

__getattr__, __dir__, __all__ = lazily(__name__)
