"""Credit of tokens by a rule that is one name in a configuration: passes of the model → scores → weights."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError
from noria.credit.attention.layers import AttentionLayer, attention_layers, choose_layers, depth_of
from noria.credit.attention.readers import HeadMean, KeptCalls, LookBack, Rollout
from noria.credit.attention.tap import AttentionTap, Reader
from noria.credit.config import CreditConfig
from noria.credit.responses.traces import Traces
from noria.credit.scores.flow import Flow, answer_nodes, per_sequence, trace_flow
from noria.credit.scores.influence import by_gradient, by_perturbation
from noria.credit.scores.signals import (
    answer_attention,
    attention_flow,
    coupled,
    key_tokens,
    token_entropy,
    waad_steps,
)
from noria.credit.scores.weights import bilevel, chosen_share, soft, top, with_mass
from noria.credit.types import Fallback

__all__ = ["Scored", "TokenCredit", "Weighed"]

TO_ANSWER = ("flow", "attention", "rollout", "attention_flow", "oar_g", "oar_p")
"""Signals that are about an answer, and fall back where there is none."""


@dataclass(frozen=True)
class Scored:
    """Scores of a batch.

    Attributes:
        scores: [batch, tokens], 0 where not counted.
        counted: tokens that are scored and ranked.
        fallback: [sequences] a :class:`Fallback` each; a sequence that has one gets even credit.
        metrics: of the flow, for a log.
        flow: where the signal is the flow; None otherwise, and where passes were read in parts.
        shares: of γ − 1 by the coupled rule, which ranks by two scores.
    """

    scores: Tensor
    counted: Tensor
    fallback: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)
    flow: Flow | None = None
    shares: Tensor | None = None


@dataclass(frozen=True)
class Weighed:
    """What tokens get.

    Attributes:
        weights: [batch, tokens] to multiply advantages with; 1 outside of responses.
        chosen: tokens that get more than the others.
        metrics: for a log, names from `credit/`.
    """

    weights: Tensor
    chosen: Tensor
    metrics: Mapping[str, float]


class TokenCredit:
    """A rule of credit.

    ```python
    credit = TokenCredit(named_credit("flow"))
    scored = credit.score(model, traces)
    weights = credit.weigh(scored, traces, advantages).weights  # advantages[:, None] * weights is all a trainer needs
    ```

    Args:
        config: which.
        replacement: id that stands for no token, for `oar_p`.
    """

    def __init__(self, config: CreditConfig, *, replacement: int = 0) -> None:
        self.config, self.replacement = config, replacement

    # -- passes -----------------------------------------------------------------------------------------------

    @property
    def reads(self) -> bool:
        """Whether the signal needs attention, so that a pass of the model has to be tapped."""
        return self.config.signal in (
            "flow",
            "attention",
            "attention_flow",
            "rollout",
            "waad",
            "fai",
            "coupled",
        )

    def layers(self, model: nn.Module) -> list[AttentionLayer]:
        """The layers of a model that are read.

        Raises:
            ModelError: it has none of the kind.
        """
        found, config = attention_layers(model), self.config
        return choose_layers(
            found,
            config.layers,
            depth=depth_of(model, found),
            number=config.number_of_layers,
            sliding=True if config.signal == "rollout" and config.sliding is None else config.sliding,
        )

    def check(self, model: nn.Module) -> None:
        """Refuse a model that does not have what would be read, before anything else is done.

        Raises:
            ModelError: it has none of the layers.
        """
        if self.reads:
            self.layers(model)

    def tap(
        self,
        model: nn.Module,
        sequence: Callable[[], Tensor],
        *,
        length: int = 0,
        on_pass: Callable[[dict[str, Any]], None] | None = None,
    ) -> AttentionTap:
        """A tap that reads what the signal needs, as `read` of its results.

        Args:
            model: whose passes.
            sequence: tells, when a pass begins, the number of each token's sequence, −1 for padding.
            length: of the longest sequence: beyond `stream_above` rows are made anew instead of kept.
            on_pass: as of :class:`AttentionTap`.
        """
        kind = self.config.signal
        makers: dict[str, Callable[[], Reader]] = {
            "rollout": Rollout,
            **dict.fromkeys(("waad", "fai", "coupled"), lambda: LookBack(sequence(), self.config.horizon)),
        }
        streamed = kind == "flow" and length > self.config.stream_above and not self.config.values
        plain: Callable[[], Reader] = KeptCalls if streamed else lambda: HeadMean(values=self.config.values)
        return AttentionTap(model, self.layers(model), {"read": makers.get(kind, plain)}, on_pass=on_pass)

    def score(self, model: Any, traces: Traces, *, step: int = 0) -> Scored:
        """Scores of a batch, by passes of our own.

        Args:
            model: a causal language model, wrapped or not.
            traces: the batch.
            step: of training; random scores depend on it and on the seed.
        """
        if traces.number != len(traces.tokens):  # packed: one row is one pass
            return self._one_pass(model, traces, step)
        size = self.config.batch_size
        parts = [
            self._one_pass(model, traces.rows(slice(start, start + size)), step * 65_537 + start)
            for start in range(0, len(traces.tokens), size)
        ]
        return join(parts)

    def _one_pass(self, model: Any, traces: Traces, step: int) -> Scored:
        kind = self.config.signal
        if kind in ("oar_g", "oar_p"):
            if traces.number != len(traces.tokens):
                raise ConfigError(
                    "it weighs the answer of a row, and rows are packed",
                    where=f"credit {kind}",
                    mend="give each sequence a row of its own",
                )
            with evaluating(model):
                scores = (
                    by_gradient(model, traces)
                    if kind == "oar_g"
                    else by_perturbation(model, traces, replacement=self.replacement)
                )
            return self.from_scores(scores, traces)
        if kind == "entropy":
            with evaluating(model), torch.no_grad():
                return self.from_scores(token_entropy(model(**inputs_of(traces)).logits), traces)
        if not self.reads:
            return self.from_nothing(traces, step)
        tap = self.tap(model, lambda: traces.sequence, length=traces.tokens.shape[1])
        with evaluating(model), torch.no_grad(), tap:
            model(**inputs_of(traces), **_one_logit(model))
        return self.from_read(tap.passes[0]["read"], traces)

    # -- scores -----------------------------------------------------------------------------------------------

    def counted(self, traces: Traces, fallback: Tensor) -> Tensor:
        """Tokens that are ranked: of responses that did not fall back; up to the answer's end where there is one."""
        wanted = traces.before_end() if self.config.signal in TO_ANSWER else traces.response
        if not self.config.include_answer:
            wanted = wanted & ~traces.answer
        return wanted & (fallback == 0)[traces.index]

    def from_read(self, read: Any, traces: Traces) -> Scored:
        """Scores out of what a tap's pass left."""
        config = self.config
        nodes = answer_nodes(traces.answer, config.answer_nodes, traces.sequence)
        if config.signal == "flow":
            flow = trace_flow(
                read,
                traces.question,
                nodes,
                valid=traces.valid,
                sequence=traces.sequence,
                known=traces.known,
                absorbing=config.absorbing,
                emission=config.emission,
                response=traces.response,
            )
            counted = self.counted(traces, flow.fallback)
            scores = flow.throughput.where(counted, 0.0)
            return Scored(scores, counted, flow.fallback, flow_metrics(flow, counted), flow)
        if config.signal == "attention_flow":
            wanted = self.counted(traces, self._without_flow(traces))
            try:
                scores = attention_flow(read, nodes, wanted)
            except ValueError as error:
                raise ConfigError(str(error), where="credit attention_flow", mend="choose flow") from None
            return self.from_scores(scores, traces)
        if config.signal in ("attention", "rollout"):
            return self.from_scores(answer_attention(read, nodes), traces)
        waad, fai = read.waad(), read.fai()
        if config.signal == "fai":
            return self.from_scores(fai, traces)
        steps = waad_steps(waad, traces.response)
        if config.signal == "waad":
            return self.from_scores(steps, traces)
        found = self.from_scores(fai, traces)
        anchors, starts = (
            top(values, found.counted, traces.index, fraction=config.fraction) for values in (fai, steps)
        )
        shares = coupled(anchors, starts, waad, found.counted, traces.sequence)
        return replace(found, shares=shares)

    def from_scores(self, scores: Tensor, traces: Traces) -> Scored:
        """Scores that are there already, of tokens that may count."""
        fallback = self._without_flow(traces)
        counted = self.counted(traces, fallback)
        bad = per_sequence(counted & ~scores.isfinite(), traces.sequence, traces.number) > 0
        fallback = fallback.masked_fill(bad, int(Fallback.NOT_FINITE))
        counted = self.counted(traces, fallback)
        return Scored(scores.float().where(counted, 0.0), counted, fallback, counts_of(fallback))

    def from_nothing(self, traces: Traces, step: int) -> Scored:
        """Scores that need no model: random ones, KTAE's, none."""
        config = self.config
        if config.signal == "random":
            # NumPy's seeds take both numbers whole; PyTorch's CPU generator looks at 32 bits.
            drawn = np.random.default_rng((config.seed, step)).random(traces.tokens.shape, dtype=np.float32)
            return self.from_scores(torch.from_numpy(drawn).to(traces.tokens.device), traces)
        if config.signal == "ktae":
            if traces.group is None or traces.correct is None:
                raise ConfigError(
                    "it compares right rollouts of a group with wrong ones, and is given neither",
                    where="credit ktae",
                    mend="give group and correct with the traces",
                )
            values = key_tokens(traces.tokens, traces.response, traces.sequence, traces.group, traces.correct)
            return self.from_scores(values, traces)
        return self.from_scores(torch.zeros(traces.tokens.shape, device=traces.tokens.device), traces)

    def _without_flow(self, traces: Traces) -> Tensor:
        """What a signal other than the flow falls back for."""
        if self.config.signal in TO_ANSWER:
            return traces.known
        return traces.known.where(traces.known == int(Fallback.NO_RESPONSE), 0)

    # -- weights ----------------------------------------------------------------------------------------------

    def weigh(
        self, scored: Scored, traces: Traces, advantages: Tensor | None = None, *, step: int = 0
    ) -> Weighed:
        """Weights of a batch.

        Args:
            scored: of the same traces.
            traces: the batch.
            advantages: [sequences]; `applies` and `ktae` look at them.
            step: of training, for the warm-up.
        """
        config, index = self.config, traces.index
        scores, counted = scored.scores, scored.counted
        unit = index
        if config.within == "batch":
            unit = torch.zeros_like(index)
        elif config.within == "group" and traces.group is not None:
            unit = traces.group[index]
        chosen = torch.zeros_like(counted)
        weights = torch.ones_like(scores)
        if config.rule in ("top", "bottom"):
            chosen = top(scores, counted, unit, fraction=config.fraction, lowest=config.rule == "bottom")
            weights = torch.where(chosen, config.gamma, torch.where(counted, config.rest, 1.0))
            if scored.shares is not None:
                chosen = scored.shares > 0
                weights = 1 + (config.gamma - 1) * scored.shares.where(counted, 0.0)
        elif config.rule == "soft":
            weights = 1 + (config.gamma - 1) * soft(scores, counted, unit)
            chosen = top(scores, counted, unit, fraction=config.fraction)
        elif config.rule == "bilevel":
            weights = bilevel(scores, counted, index, quantile=config.quantile, beta=config.beta)
            chosen = counted & (weights > 1)
        elif config.rule == "all":
            chosen = counted
            weights = torch.where(counted, config.gamma, 1.0)
        elif config.rule == "add":
            if advantages is None:
                raise ConfigError("it is added to the advantages, and there are none", where="credit ktae")
            own = advantages[index]
            some = counted & (own.abs() > 1e-6)
            weights = torch.where(some, 1 + scores / own.where(some, 1.0), 1.0)
            chosen = counted & (scores.abs() > 0)
        if config.rule != "add":
            weights = with_mass(weights, traces.response, traces.sequence, traces.number, config.mass)
        if advantages is not None and config.applies != "both":
            sign = 1 if config.applies == "positive" else -1
            weights = torch.where((sign * advantages > 0)[index], weights, 1.0)
        if step < config.warmup_steps:
            weights = 1 + (weights - 1) * (step / config.warmup_steps)
        weights = torch.where(traces.response, weights, 1.0)
        chosen = chosen & traces.response
        return Weighed(weights, chosen, self._metrics(scored, traces, weights, chosen, advantages))

    def _metrics(
        self, scored: Scored, traces: Traces, weights: Tensor, chosen: Tensor, advantages: Tensor | None
    ) -> dict[str, float]:
        number = max(1, int(traces.response.sum()))
        metrics = {
            **scored.metrics,
            "mean_weight": float(weights[traces.response].sum()) / number,
            "chosen": float(chosen.sum()) / number,
        }
        if advantages is not None:
            size = advantages[traces.index] * weights
            metrics["advantage_on_chosen"] = chosen_share(chosen, size, traces.response)
        return {f"credit/{name}": value for name, value in metrics.items() if math.isfinite(value)}


def join(parts: Sequence[Scored]) -> Scored:
    """Scores of a batch that was done in parts, rows one after the other; metrics are means, weighed by sequences."""
    if len(parts) == 1:
        return parts[0]
    sizes = [len(part.fallback) for part in parts]
    metrics: dict[str, float] = {}
    for name in parts[0].metrics:
        pairs = [
            (p.metrics[name], n) for p, n in zip(parts, sizes, strict=True) if math.isfinite(p.metrics[name])
        ]
        weight = sum(n for _, n in pairs)
        metrics[name] = sum(value * n for value, n in pairs) / weight if weight else math.nan
    shares = [part.shares for part in parts]
    return Scored(
        torch.cat([part.scores for part in parts]),
        torch.cat([part.counted for part in parts]),
        torch.cat([part.fallback for part in parts]),
        metrics,
        shares=None if any(s is None for s in shares) else torch.cat([s for s in shares if s is not None]),
    )


def counts_of(fallback: Tensor) -> dict[str, float]:
    """The share of sequences that fell back, and for which reasons."""
    number = max(1, len(fallback))
    found = torch.bincount(fallback, minlength=len(Fallback)).tolist()
    reasons = {reason.name.lower(): found[reason] / number for reason in Fallback if found[reason] and reason}
    return {
        "fallback": sum(reasons.values()),
        **{f"fallback_{name}": share for name, share in reasons.items()},
    }


def flow_metrics(flow: Flow, counted: Tensor) -> dict[str, float]:
    """What is worth logging of a flow, means over the sequences that have one.

    `lost`: share of the question that cannot reach the answer; `path_length`: tokens on a path; `concentration`: 1 −
    the entropy of flow over the scored tokens relative to the largest there could be, so 0 where all tokens carry
    alike; `conservation`: the largest |arrived − 1|.
    """
    metrics = counts_of(flow.fallback)
    whole = flow.fallback == 0
    number = int(whole.sum())
    if not number:
        return metrics
    size = len(flow.fallback)
    mass = flow.flow.where(counted, 0.0)
    total = per_sequence(mass, flow.sequence, size).clamp(min=1e-30)
    share = mass / total[flow.sequence.clamp(min=0)]
    entropy = per_sequence(-(share * share.clamp(min=1e-30).log()), flow.sequence, size)
    most = per_sequence(counted, flow.sequence, size).clamp(min=2).log()
    metrics["lost"] = float(flow.lost[whole].mean())
    metrics["path_length"] = float(flow.path_length[whole].mean())
    metrics["concentration"] = float((1 - entropy / most)[whole].mean())
    metrics["conservation"] = float((flow.arrived[whole] - 1).abs().max())
    return metrics


def inputs_of(traces: Traces) -> dict[str, Any]:
    """What a model's forward takes."""
    if traces.number != len(traces.tokens):
        if traces.positions is None:
            raise ConfigError(
                "packed sequences are told apart by their positions", where="positions", mend="give them"
            )
        return {"input_ids": traces.tokens, "position_ids": traces.positions, "use_cache": False}
    return {
        "input_ids": traces.tokens,
        "attention_mask": traces.valid.long(),
        "position_ids": traces.places,
        "use_cache": False,
    }


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout, and as before afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _one_logit(model: Any) -> dict[str, int]:
    """Asks for one logit only, where the model can."""
    inner = model
    while not hasattr(inner, "get_output_embeddings") and hasattr(inner, "module"):
        inner = inner.module
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    accepts = "logits_to_keep" in inspect.signature(inner.forward).parameters
    return {"logits_to_keep": 1} if accepts else {}
