"""Few-step distillation of flow-matching diffusion models by Continuous-Time Distribution Matching.

The paper is CDM (Liu et al. 2026, arXiv 2605.06376). A flow-matching model draws an image in some tens of network
calls, twice that with guidance. A student distilled by distribution matching does it in about four, and needs only
prompts to learn it. The usual recipe supervises the student on the few noise levels that it will be used at; off them
it drifts. CDM draws the levels anew for each batch, and adds a loss at points beside the student's own trajectory.
DMD2, Decoupled-DMD, consistency distillation and the paper's ablations are presets of the same trainer.

Read in this order:

| module | holds |
| --- | --- |
| `config` | every setting, and the presets |
| `schedules`, `draws`, `rollout`, `objectives` | the mathematics: pure functions of tensors and given random numbers |
| `adapters`, `integrations` | how to call a model: small transformers, and diffusers' pipelines |
| `roles`, `monitors`, `trainer` | teacher, student and critic; the loop |
| `metrics`, `classifier`, `evaluate`, `lenses` | how far samples are from a reference; the ladder of step numbers |
| `export`, `few_step` | the student as a diffusers folder |
| `settings`, `opening`, `jobs`, `pages`, `cli` | the verbs of `noria distill` |
| `arms`, `proof`, `bench`, `data`, `teacher` | the paper's claims, tested |

Importing this package is light; a name below brings its module, and with it PyTorch, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.distill.adapters import FlowAdapter, SmallAdapter
    from noria.distill.config import PRESETS, DistillConfig, preset
    from noria.distill.data import Prompts, read_prompts
    from noria.distill.evaluate import Judge, even_grid, ladder_grids
    from noria.distill.export import export_student
    from noria.distill.integrations.diffusers import open_pipeline
    from noria.distill.opening import Student, open_model, open_student
    from noria.distill.trainer import Distiller

_HOMES = {
    "PRESETS": "config",
    "DistillConfig": "config",
    "Distiller": "trainer",
    "FlowAdapter": "adapters",
    "Judge": "evaluate",
    "Prompts": "data",
    "SmallAdapter": "adapters",
    "Student": "opening",
    "even_grid": "evaluate",
    "export_student": "export",
    "ladder_grids": "evaluate",
    "open_model": "opening",
    "open_pipeline": "integrations.diffusers",
    "open_student": "opening",
    "preset": "config",
    "read_prompts": "data",
}

__all__ = [
    "PRESETS",
    "DistillConfig",
    "Distiller",
    "FlowAdapter",
    "Judge",
    "Prompts",
    "SmallAdapter",
    "Student",
    "even_grid",
    "export_student",
    "ladder_grids",
    "open_model",
    "open_pipeline",
    "open_student",
    "preset",
    "read_prompts",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)
