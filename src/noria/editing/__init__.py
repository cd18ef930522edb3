"""DDA-Thinker: a planner trained over a frozen image editor by atomic checklist rewards (arXiv 2604.25477).

The problem: editors render faithfully and do not reason. A planner writes the plan, a frozen editor renders it, and the
reward of the picture alone blames the wrong one. Two atomic rewards tell them apart. Rooms in the order of reading:

- `types`, `plans`: what an editor, a planner and a rendering are; think/answer outputs
- `checklists`: items of plans and pictures, verifier programs
- `safety`: what keeps a policy from talking its judge into a reward
- `data`: tasks, pictures within bounds, registration
- `rewards`: r_cog (eq. 1) and r_vis (eq. 2) with invalid verdicts masked; streams and advantages (eq. 3)
- `editors`: servers with images/edits, pipelines of diffusers
- `environment`: rendering and judging overlapped, the cache, the circuit breaker
- `synthesis`, `validation`, `curation`: references, checklists and tasks; what is kept of them
- `use`: think, then edit: tries, best of n, undo, batches, attribution
- `benchmarks`, `integrations`, `service`: RISEBench and KRIS-Bench; TRL and verl; an images/edits API
"""

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.editing.data.pictures import Scene as Scene, open_scene as open_scene
    from noria.editing.data.tasks import Task as Task, read_tasks as read_tasks
    from noria.editing.editors.pipeline import (
        PipelineEditor as PipelineEditor,
        open_pipeline as open_pipeline,
    )
    from noria.editing.editors.server import ServerEditor as ServerEditor
    from noria.editing.environment.judges import AtomicJudges as AtomicJudges
    from noria.editing.environment.rendering import Renderer as Renderer
    from noria.editing.environment.rewarding import RewardEnvironment as RewardEnvironment
    from noria.editing.plans import parse_plan as parse_plan
    from noria.editing.rewards.atomic import (
        cognitive_reward as cognitive_reward,
        visual_reward as visual_reward,
    )
    from noria.editing.rewards.streams import (
        StreamSettings as StreamSettings,
        stream_advantages as stream_advantages,
    )
    from noria.editing.use.planners import ChatPlanner as ChatPlanner
    from noria.editing.use.session import EditSession as EditSession, ThinkThenEdit as ThinkThenEdit

__getattr__, __dir__, __all__ = lazily(__name__)
