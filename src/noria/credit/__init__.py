"""Credit for the tokens that carry a question to its answer (FlowTracer, arXiv 2606.10646).

Reinforcement learning on reasoning pays every token of a response alike. Attention of a model that reads its own
response is a graph from the question to the answer; how much flows through each token, given that it arrives, is a
score that says which tokens the answer came from, and two triangular solves. Here are that flow, its rivals under one
name each, a test of whether an answer hangs on what a score calls important, and bridges to trainers.

Read in this order:

| module | holds |
| --- | --- |
| `flow`, `backbone` | the flow of a response, exactly, in little memory; the edges that carry most of it |
| `layers`, `readers`, `tap` | attention of chosen layers while a model runs, at about the price of fast attention |
| `answers`, `traces` | where a response says its answer; question, response and answer in padded or packed rows |
| `signals`, `influence`, `weights` | the flow's rivals; from scores to how much of the advantage a token gets |
| `kinds`, `config`, `credit` | a name for each rule; passes of a model → scores → weights |
| `integrations` | TRL and verl |
| `rollout`, `trainer`, `masking`, `trace` | GRPO of its own that resumes exactly; the mask test; one response as data |
| `settings`, `jobs`, `pages`, `cli` | the verbs of `noria credit` |
| `tasks`, `small`, `arms`, `proof`, `bench` | questions and the small reasoner; the paper's claims, tested |

Importing this package is light; a name below brings its module, and with it PyTorch, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.credit.answers import finder
    from noria.credit.config import NAMES, CreditConfig, named_credit
    from noria.credit.credit import TokenCredit, Weighed
    from noria.credit.flow import Flow, answer_nodes, trace_flow
    from noria.credit.masking import MaskTest, mask_test
    from noria.credit.tap import AttentionTap
    from noria.credit.traces import Traces, find_answers
    from noria.credit.trainer import CreditTrainer

_HOMES = {
    "NAMES": "config",
    "AttentionTap": "tap",
    "CreditConfig": "config",
    "CreditTrainer": "trainer",
    "Flow": "flow",
    "MaskTest": "masking",
    "TokenCredit": "credit",
    "Traces": "traces",
    "Weighed": "credit",
    "answer_nodes": "flow",
    "find_answers": "traces",
    "finder": "answers",
    "mask_test": "masking",
    "named_credit": "config",
    "trace_flow": "flow",
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
