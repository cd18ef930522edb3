"""Credit for the tokens that carry a question to its answer (FlowTracer, arXiv 2606.10646).

Reinforcement learning on reasoning pays every token of a response alike. Attention of a model that reads its own
response is a graph from the question to the answer; how much flows through each token, given that it arrives, is a
score that says which tokens the answer came from, and two triangular solves. Here are that flow, its rivals under one
name each, a test of whether an answer hangs on what a score calls important, and bridges to trainers.

Rooms, in the order of reading:

| room | holds |
| --- | --- |
| `scores.flow` | the flow of a response: graph, source, potential, throughput; the paper's equations |
| `scores.backbone` | the edges that carry most of the flow |
| `scores.signals`, `scores.influence` | the flow's rivals |
| `scores.weights` | from scores to how much of the advantage a token gets |
| `attention` | attention of chosen layers while a model runs, at about the price of fast attention |
| `responses` | sampling; where a response states its answer; question, response and answer in rows |
| `types`, `config`, `credit` | a name for each rule; passes of a model → scores → weights |
| `tasks` | questions with checkable answers, and the small reasoners that ship |
| `training` | GRPO that resumes exactly; trainings compared |
| `inspection` | one response as data (`trace`); the mask test (`masking`) |
| `integrations` | TRL and verl |
| `verbs` | `noria credit`, one module a verb |
| `proof` | the paper's claims, tested, and speed against peers |

Importing this package is light; a name below brings its module, and with it PyTorch, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.credit.attention.tap import AttentionTap
    from noria.credit.config import NAMES, CreditConfig, named_credit
    from noria.credit.credit import TokenCredit, Weighed
    from noria.credit.inspection.masking import MaskTest, mask_test
    from noria.credit.responses.answers import finder
    from noria.credit.responses.traces import Traces, find_answers
    from noria.credit.scores.flow import Flow, answer_nodes, trace_flow
    from noria.credit.training.trainer import CreditTrainer

_HOMES = {
    "NAMES": "config",
    "AttentionTap": "attention.tap",
    "CreditConfig": "config",
    "CreditTrainer": "training.trainer",
    "Flow": "scores.flow",
    "MaskTest": "inspection.masking",
    "TokenCredit": "credit",
    "Traces": "responses.traces",
    "Weighed": "credit",
    "answer_nodes": "scores.flow",
    "find_answers": "responses.traces",
    "finder": "responses.answers",
    "mask_test": "inspection.masking",
    "named_credit": "config",
    "trace_flow": "scores.flow",
}

__all__ = [
    "NAMES",
    "AttentionTap",
    "CreditConfig",
    "CreditTrainer",
    "Flow",
    "MaskTest",
    "TokenCredit",
    "Traces",
    "Weighed",
    "answer_nodes",
    "find_answers",
    "finder",
    "mask_test",
    "named_credit",
    "trace_flow",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)
