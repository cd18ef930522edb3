"""Routers that send each request to the right model, trained with calibrated rewards (ReCal, arXiv 2606.12479).

A router is paid for several things at once: that its output can be read, that the answer is right, that it was cheap.
Added up and standardised in a group, they drown each other, and easy data sets drown the others. The calibration gives
each component its own advantage among the rollouts that could earn it, weighs groups by what they tell, and brings data
sets to one scale. Around it are pools of models, replay tables to train on without spending, baselines and figures, and
a service.

Read in this order:

| room | holds |
| --- | --- |
| `config` | settings of both trainings |
| `rewards.components` | which rewards count: stage 1a |
| `rewards.calibration` | from rewards to one advantage: stages 1b, 2a, 2b; GRPO, Dr.GRPO and GDPO as presets |
| `rewards.calibrator` | the calibration with a memory |
| `tables` | is an answer right, was it cheap; replay tables, one's own and others' |
| `pool` | whom a router can ask; recording: asking everyone everything once |
| `routers.metrics` | quality against cost: AIQ, regret, stability |
| `routers` | baselines; a policy that chooses once, its exact gradient (`replay`) and its training (`learn`) |
| `writer` | a language model that thinks, asks and answers; its grammar, rewards and training by TRL |
| `integrations` | TRL and verl |
| `service` | live traffic, OpenAI-compatible |
| `verbs` | the verbs of `noria routing` |
| `proof` | a real pool; the paper's claims, tested; speed against peers |

Importing this package is light; a name below brings its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.routing.config import NetworkTraining as NetworkTraining, WriterTraining as WriterTraining
    from noria.routing.pool.config import PoolConfig as PoolConfig
    from noria.routing.pool.pool import Pool as Pool
    from noria.routing.rewards.calibration import CalibrationState as CalibrationState, calibrate as calibrate
    from noria.routing.rewards.calibrator import Calibrator as Calibrator
    from noria.routing.rewards.components import Component as Component
    from noria.routing.rewards.config import (
        PRESETS as PRESETS,
        CalibrationConfig as CalibrationConfig,
        preset as preset,
    )
    from noria.routing.routers.files import load_router as load_router
    from noria.routing.routers.learn import NetworkTrainer as NetworkTrainer
    from noria.routing.routers.metrics import Score as Score, aiq as aiq
    from noria.routing.routers.network import NetworkRouter as NetworkRouter
    from noria.routing.service.service import routing_service as routing_service
    from noria.routing.tables.imports import import_table as import_table
    from noria.routing.tables.table import (
        Table as Table,
        read_table as read_table,
        write_table as write_table,
    )
    from noria.routing.writer.environment import Environment as Environment, Limits as Limits

__getattr__, __dir__, __all__ = lazily(__name__)
