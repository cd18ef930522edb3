"""Credit for the tokens that carry a question to its answer (FlowTracer, arXiv 2606.10646).

Reinforcement learning on reasoning gives every token of a response the same advantage. The attention of a model that
reads its own response is a graph from the question to the answer. The flow through each token, given that it arrives,
scores how much the answer came from that token, and takes two triangular solves. Here are that flow, its rivals under
one name each, a test of whether an answer depends on the tokens that a score calls important, and bridges to trainers.

Rooms, in the order of reading:

| room | holds |
| --- | --- |
| `scores.flow` | the flow of a response: graph, source, potential, throughput; the paper's equations |
| `scores.backbone` | the edges that carry most of the flow |
| `scores.rivals`, `scores.influence` | the flow's rivals |
| `scores.weights` | from scores to weights of the advantage |
| `attention` | attention of chosen layers while a model runs, at about the price of fast attention |
| `responses` | sampling; the answer of a response; question, response and answer in rows |
| `types`, `config` | a name for each rule, and the settings |
| `signals`, `rules`, `credit` | a function for each signal and each rule; passes of a model → scores → weights |
| `tasks` | questions with checkable answers, and the small reasoners that ship |
| `training` | GRPO that resumes bit for bit; trainings compared |
| `inspection` | one response as data (`trace`); the mask test (`masking`) |
| `integrations` | TRL and verl |
| `verbs` | `noria credit`, one module a verb |
| `proof` | the paper's claims, tested, and speed against peers |

Importing this package is light: a name below imports its module, and with it PyTorch, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.credit.attention.tap import AttentionTap
    from noria.credit.config import NAMES, CreditConfig, named_credit
    from noria.credit.credit import TokenCredit, TokenWeights
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
    "TokenWeights": "credit",
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
    "TokenWeights",
    "Traces",
    "answer_nodes",
    "find_answers",
    "finder",
    "mask_test",
    "named_credit",
    "trace_flow",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)
