"""FlowTracer's credit within the training of a planner: tokens that carry the request to the plan get more of it.

The plan between the answer tags is the answer; pictures and request are the question. Attention is read in a pass of
the policy with its pictures, so that what it saw is a source of flow as well as what it read.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from noria.core.errors import ConfigError, needing

with needing("credit"):
    import torch
    from torch import Tensor

    from noria.credit.config import CreditConfig, named_credit, unread
    from noria.credit.credit import TokenCredit
    from noria.credit.responses.answers import finder
    from noria.credit.responses.traces import Traces, completion_traces
    from noria.credit.signals import READERS, TokenScores, join_scores

LONGEST = 0.9
"""Largest share of an output that its plan may be: plans are longer than the answers of riddles."""


def credit_of(name: str) -> CreditConfig:
    """Settings of a named credit for outputs whose answer is a plan.

    Raises:
        ConfigError: there is no credit of that name, or it cannot read a pass with pictures.
    """
    config = named_credit(name, answer="tag")
    if config.signal not in (*READERS, "none", "random"):
        raise ConfigError(
            f"the credit {name} runs a model of its own on texts alone, and a planner reads pictures",
            where="learning.planner.credit",
            mend="use flow, or another one that reads attention",
        )
    read = not unread(config, ["longest_answer"])
    return config.model_copy(update={"longest_answer": LONGEST}) if read else config


class PlanCredit:
    """Weights of the tokens of outputs by a named credit, as the trainer of planners asks for them.

    Args:
        name: name of the credit, such as flow.

    Attributes:
        fallen: outputs so far whose tokens were not told apart, such as those without a plan.
        weighed: outputs so far that were weighed.
    """

    def __init__(self, name: str) -> None:
        self.config = credit_of(name)
        self.find = finder(self.config.answer)
        self.fallen = self.weighed = 0

    def __call__(self, policy: Any, rollouts: Any, advantages: Tensor, step: int) -> Tensor:
        """Do what the trainer's protocol of credits says."""
        credit = TokenCredit(self.config, replacement=policy.pad)
        sampled, prompts = rollouts.sampled, rollouts.prompts
        valid = torch.cat([prompts.mask, sampled.mask], 1).bool()
        traces = completion_traces(
            torch.cat([prompts.ids, sampled.ids], 1), valid, sampled.mask.bool(), policy.tokenizer, self.find,
            self.config, group=rollouts.group.to(policy.device), correct=advantages > 0,
        )  # fmt: skip
        scored = (
            self._read(credit, policy, rollouts, traces)
            if credit.reads
            else credit.from_nothing(traces, step)
        )
        weighed = credit.weigh(scored, traces, advantages, step=step)
        self.fallen += int((scored.fallback != 0).sum())
        self.weighed += len(advantages)
        return weighed.weights[:, -sampled.ids.shape[1] :]

    def _read(self, credit: TokenCredit, policy: Any, rollouts: Any, traces: Traces) -> TokenScores:
        """Scores by passes of the policy with its pictures, some rows at a time."""
        parts = []
        for start in range(0, len(traces.tokens), self.config.batch_size):
            part = slice(start, start + self.config.batch_size)
            own = traces.rows(part)
            rows = list(range(len(traces.tokens))[part])
            tap = credit.tap(policy.model, partial(getattr, own, "sequence"), length=own.tokens.shape[1])
            with torch.no_grad(), tap:
                policy.logprobs(
                    rollouts.prompts.rows(rows), rollouts.sampled.ids[rows], rollouts.sampled.mask[rows]
                )
            parts.append(credit.from_read(tap.passes[0]["read"], own))
        return join_scores(parts)
