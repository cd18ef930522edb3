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
    from noria.routing.config import NetworkTraining, WriterTraining
    from noria.routing.pool.config import PoolConfig
    from noria.routing.pool.pool import Pool
    from noria.routing.rewards.calibration import CalibrationState, calibrate
    from noria.routing.rewards.calibrator import Calibrator
    from noria.routing.rewards.components import Component
    from noria.routing.rewards.config import PRESETS, CalibrationConfig, preset
    from noria.routing.routers.files import load_router
    from noria.routing.routers.learn import NetworkTrainer
    from noria.routing.routers.metrics import Score, aiq
    from noria.routing.routers.network import NetworkRouter
    from noria.routing.service.service import routing_service
    from noria.routing.tables.imports import import_table
    from noria.routing.tables.table import Table, read_table, write_table
    from noria.routing.writer.environment import Environment, Limits

_HOMES = {
    "PRESETS": "rewards.config",
    "CalibrationConfig": "rewards.config",
    "CalibrationState": "rewards.calibration",
    "Calibrator": "rewards.calibrator",
    "Component": "rewards.components",
    "Environment": "writer.environment",
    "Limits": "writer.environment",
    "NetworkRouter": "routers.network",
    "NetworkTrainer": "routers.learn",
    "NetworkTraining": "config",
    "Pool": "pool.pool",
    "PoolConfig": "pool.config",
    "Score": "routers.metrics",
    "Table": "tables.table",
    "WriterTraining": "config",
    "aiq": "routers.metrics",
    "calibrate": "rewards.calibration",
    "import_table": "tables.imports",
    "load_router": "routers.files",
    "preset": "rewards.config",
    "read_table": "tables.table",
    "routing_service": "service.service",
    "write_table": "tables.table",
}

__all__ = [
    "PRESETS",
    "CalibrationConfig",
    "CalibrationState",
    "Calibrator",
    "Component",
    "Environment",
    "Limits",
    "NetworkRouter",
    "NetworkTrainer",
    "NetworkTraining",
    "Pool",
    "PoolConfig",
    "Score",
    "Table",
    "WriterTraining",
    "aiq",
    "calibrate",
    "import_table",
    "load_router",
    "preset",
    "read_table",
    "routing_service",
    "write_table",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)
