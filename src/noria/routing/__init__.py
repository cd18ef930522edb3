"""Routers that send each request to the right model, trained with calibrated rewards (ReCal, arXiv 2606.12479).

A router is paid for several things at once: that its output can be read, that the answer is right, that it was cheap.
Added up and standardised in a group, they drown each other, and easy data sets drown the others. The calibration gives
each component its own advantage among the rollouts that could earn it, weighs groups by what they tell, and brings data
sets to one scale. Around it are pools of models, replay tables to train on without spending, baselines and figures, and
a service.

Read in this order:

| module | holds |
| --- | --- |
| `components`, `calibration`, `calibrator` | rewards by component, from them to one advantage; with a memory |
| `answers`, `table`, `imports` | is an answer right; replay tables, one's own and others' |
| `pool`, `local`, `together`, `calculator`, `record` | whom a router can ask, and asking everyone everything once |
| `metrics`, `routers` | quality against cost, regret, stability; the baselines |
| `features`, `policy`, `replay`, `learn` | a router that chooses once, and its training |
| `grammar`, `environment`, `writer`, `writing` | a language model that thinks, asks and answers, and its training |
| `integrations` | TRL and verl |
| `serve`, `serving` | live traffic, OpenAI-compatible |
| `config`, `settings`, `jobs`, `pages`, `cli` | the verbs of `noria routing` |
| `tasks`, `solvers`, `arms`, `writer_arms`, `proof`, `bench` | a real pool; the paper's claims, tested |

Importing this package is light; a name below brings its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.routing.calibration import PRESETS, CalibrationConfig, CalibrationState, calibrate, preset
    from noria.routing.calibrator import Calibrator
    from noria.routing.components import Component
    from noria.routing.config import NetworkTraining, WriterTraining
    from noria.routing.environment import Environment, Limits
    from noria.routing.imports import import_table
    from noria.routing.learn import NetworkTrainer
    from noria.routing.metrics import Score, aiq
    from noria.routing.policy import NetworkRouter, load_router
    from noria.routing.pool import Pool, PoolConfig
    from noria.routing.serve import routing_service
    from noria.routing.table import Table, read_table, write_table

_HOMES = {
    "PRESETS": "calibration",
    "CalibrationConfig": "calibration",
    "CalibrationState": "calibration",
    "Calibrator": "calibrator",
    "Component": "components",
    "Environment": "environment",
    "Limits": "environment",
    "NetworkRouter": "policy",
    "NetworkTrainer": "learn",
    "NetworkTraining": "config",
    "Pool": "pool",
    "PoolConfig": "pool",
    "Score": "metrics",
    "Table": "table",
    "WriterTraining": "config",
    "aiq": "metrics",
    "calibrate": "calibration",
    "import_table": "imports",
    "load_router": "policy",
    "preset": "calibration",
    "read_table": "table",
    "routing_service": "serve",
    "write_table": "table",
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
