"""Few-step distillation of flow-matching diffusion models by Continuous-Time Distribution Matching.

The paper is CDM (Liu et al. 2026, arXiv 2605.06376). A flow-matching model draws an image in some tens of network
calls, twice that with guidance. A student distilled by distribution matching does it in about four, and needs only
prompts to learn it. The usual recipe supervises the student on the few noise levels that it will be used at; off them
it drifts. CDM draws the levels anew for each batch, and adds a loss at points beside the student's own trajectory.
DMD2, Decoupled-DMD, consistency distillation and the paper's ablations are presets of the same trainer.

Read in this order:

| room | what it is | equations of the paper |
| --- | --- | --- |
| `config` | every setting, and the presets | the ablations, a preset each |
| `adapters`, `integrations` | how a model is called: small transformers, and diffusers' pipelines | |
| `data` | `prompts` of a training; `images` and `mnist` of the proof | |
| `matching` | the mathematics: `schedules` and `rollout`, `objectives`, `draws` | §3.2; Eq. 3, 4, 7 |
| `training` | `student_losses`, `roles`, `teacher`, `monitors`; the `trainer` | Eq. 3 to 8; Algorithm 1 |
| `students` | `loading` a student, and its `export` as a diffusers folder | |
| `evaluation` | the `judge` on the ladder of step numbers; `metrics` and the `features` they are measured in | |
| `verbs` | the verbs of `noria distill` | |
| `proof` | the paper's `claims`, their `arms`, and the `bench` | |

Importing this package is light; a name below brings its module, and with it PyTorch, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.distill.adapters import FlowAdapter, SmallAdapter
    from noria.distill.config import PRESETS, DistillConfig, preset
    from noria.distill.data.prompts import Prompts, read_prompts
    from noria.distill.evaluation.grids import even_grid, ladder_grids
    from noria.distill.evaluation.judge import Judge
    from noria.distill.integrations.diffusers import open_pipeline
    from noria.distill.students.export import export_student
    from noria.distill.students.loading import Student, open_model, open_student
    from noria.distill.training.trainer import Distiller

_HOMES = {
    "PRESETS": "config",
    "DistillConfig": "config",
    "Distiller": "training.trainer",
    "FlowAdapter": "adapters",
    "Judge": "evaluation.judge",
    "Prompts": "data.prompts",
    "SmallAdapter": "adapters",
    "Student": "students.loading",
    "even_grid": "evaluation.grids",
    "export_student": "students.export",
    "ladder_grids": "evaluation.grids",
    "open_model": "students.loading",
    "open_pipeline": "integrations.diffusers",
    "open_student": "students.loading",
    "preset": "config",
    "read_prompts": "data.prompts",
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
