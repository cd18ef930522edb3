"""The signals by name: each turns what a pass of the model shows into a score for every token.

`SIGNALS[name](inputs)` scores a batch; `READERS[name](config, sequence, length)` makes the reader of attention that the
signal needs. A signal without a reader needs no tapped pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noria.core.errors import ConfigError
from noria.credit.attention.readers import AttentionRollout, HeadMean, KeptCalls, LookBack
from noria.credit.attention.tap import Reader
from noria.credit.config import CreditConfig
from noria.credit.passes import evaluating, inputs_of
from noria.credit.responses.traces import Traces
from noria.credit.scores.flow import Flow, answer_nodes, per_sequence, trace_flow
from noria.credit.scores.influence import by_gradient, by_perturbation
from noria.credit.scores.rivals import (
    answer_attention,
    attention_flow,
    coupled,
    key_tokens,
    token_entropy,
    waad_steps,
)
from noria.credit.scores.weights import top
from noria.credit.types import ANSWER_SIGNALS, Fallback, Signal

MODEL_SIGNALS = ("entropy", "oar_g", "oar_p")
"""Signals that run the model themselves."""


@dataclass(frozen=True)
class TokenScores:
    """Scores of a batch.

    Attributes:
        scores: [batch, tokens], 0 where not counted.
        counted: [batch, tokens] tokens that are scored and ranked.
        fallback: [sequences] a :class:`Fallback` each; a sequence that has one gets even credit.
        metrics: figures for a log, without the prefix `credit/`.
        flow: the traced flow of the signal `flow`; None for others, and where passes were read in parts.
        shares: [batch, tokens] shares of γ − 1 by the coupled rule, which ranks by two scores.
    """

    scores: Tensor
    counted: Tensor
    fallback: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)
    flow: Flow | None = None
    shares: Tensor | None = None


@dataclass(frozen=True)
class SignalInput:
    """Everything that a signal may look at.

    Attributes:
        config: settings of the credit.
        traces: the batch.
        read: result of the signal's reader; None where it has no reader.
        model: the language model, for :data:`MODEL_SIGNALS`.
        step: training step, which random scores depend on.
        replacement: token id without a meaning, for `oar_p`.
    """

    config: CreditConfig
    traces: Traces
    read: Any = None
    model: Any = None
    step: int = 0
    replacement: int = 0

    @property
    def nodes(self) -> Tensor:
        """The answer nodes of the batch, [batch, tokens]."""
        return answer_nodes(self.traces.answer, self.config.answer_nodes, self.traces.sequence)

    def scored(self, scores: Tensor) -> TokenScores:
        """The scores with the tokens that count and the sequences that fall back."""
        return token_scores(scores, self.traces, self.config)


def counted_tokens(traces: Traces, fallback: Tensor, config: CreditConfig) -> Tensor:
    """Tokens that are ranked: of responses that did not fall back, up to the answer's end where there is one."""
    wanted = traces.before_end() if config.signal in ANSWER_SIGNALS else traces.response
    if not config.include_answer:
        wanted = wanted & ~traces.answer
    return wanted & (fallback == 0)[traces.index]


def token_scores(scores: Tensor, traces: Traces, config: CreditConfig) -> TokenScores:
    """Scores [batch, tokens] of a signal other than the flow; a sequence with NaN or infinity falls back."""
    fallback = _known_fallback(traces, config)
    counted = counted_tokens(traces, fallback, config)
    bad = per_sequence(counted & ~scores.isfinite(), traces.sequence, traces.number) > 0
    fallback = fallback.masked_fill(bad, int(Fallback.NOT_FINITE))
    counted = counted_tokens(traces, fallback, config)
    return TokenScores(scores.float().where(counted, 0.0), counted, fallback, fallback_shares(fallback))


def _known_fallback(traces: Traces, config: CreditConfig) -> Tensor:
    if config.signal in ANSWER_SIGNALS:
        return traces.known
    return traces.known.where(traces.known == int(Fallback.NO_RESPONSE), 0)


# -- the signals ------------------------------------------------------------------------------------------------------


def _flow(inputs: SignalInput) -> TokenScores:
    config, traces = inputs.config, inputs.traces
    flow = trace_flow(
        inputs.read,
        traces.question,
        inputs.nodes,
        valid=traces.valid,
        sequence=traces.sequence,
        known=traces.known,
        absorbing=config.absorbing,
        emission=config.emission,
        response=traces.response,
    )
    counted = counted_tokens(traces, flow.fallback, config)
    scores = flow.throughput.where(counted, 0.0)
    return TokenScores(scores, counted, flow.fallback, _flow_metrics(flow, counted), flow)


def _attention_flow(inputs: SignalInput) -> TokenScores:
    traces, config = inputs.traces, inputs.config
    wanted = counted_tokens(traces, _known_fallback(traces, config), config)
    try:
        scores = attention_flow(inputs.read, inputs.nodes, wanted)
    except ValueError as error:
        raise ConfigError(str(error), where="credit attention_flow", mend="choose flow") from None
    return inputs.scored(scores)


def _coupled(inputs: SignalInput) -> TokenScores:
    traces, fraction = inputs.traces, inputs.config.fraction
    waad, fai = inputs.read.waad(), inputs.read.fai()
    result = inputs.scored(fai)
    anchors = top(fai, result.counted, traces.index, fraction=fraction)
    starts = top(waad_steps(waad, traces.response), result.counted, traces.index, fraction=fraction)
    return replace(result, shares=coupled(anchors, starts, waad, result.counted, traces.sequence))


def _entropy(inputs: SignalInput) -> TokenScores:
    with evaluating(inputs.model), torch.no_grad():
        return inputs.scored(token_entropy(inputs.model(**inputs_of(inputs.traces)).logits))


def _oar(inputs: SignalInput) -> TokenScores:
    model, traces, signal = inputs.model, inputs.traces, inputs.config.signal
    if traces.number != len(traces.tokens):
        raise ConfigError(
            "it weighs the answer of a row, and rows are packed",
            where=f"credit {signal}",
            mend="give each sequence a row of its own",
        )
    with evaluating(model):
        if signal == "oar_g":
            return inputs.scored(by_gradient(model, traces))
        return inputs.scored(by_perturbation(model, traces, replacement=inputs.replacement))


def _ktae(inputs: SignalInput) -> TokenScores:
    traces = inputs.traces
    if traces.group is None or traces.correct is None:
        raise ConfigError(
            "it compares right rollouts of a group with wrong ones, and is given neither",
            where="credit ktae",
            mend="give group and correct with the traces",
        )
    return inputs.scored(
        key_tokens(traces.tokens, traces.response, traces.sequence, traces.group, traces.correct)
    )


def _random(inputs: SignalInput) -> TokenScores:
    # NumPy's seeds take both numbers whole; PyTorch's CPU generator looks at 32 bits.
    generator = np.random.default_rng((inputs.config.seed, inputs.step))
    scores = torch.from_numpy(generator.random(inputs.traces.tokens.shape, dtype=np.float32))
    return inputs.scored(scores.to(inputs.traces.tokens.device))


SIGNALS: Mapping[Signal, Callable[[SignalInput], TokenScores]] = {
    "flow": _flow,
    "attention": lambda inputs: inputs.scored(answer_attention(inputs.read, inputs.nodes)),
    "rollout": lambda inputs: inputs.scored(answer_attention(inputs.read, inputs.nodes)),
    "attention_flow": _attention_flow,
    "entropy": _entropy,
    "waad": lambda inputs: inputs.scored(waad_steps(inputs.read.waad(), inputs.traces.response)),
    "fai": lambda inputs: inputs.scored(inputs.read.fai()),
    "coupled": _coupled,
    "oar_g": _oar,
    "oar_p": _oar,
    "ktae": _ktae,
    "random": _random,
    "none": lambda inputs: inputs.scored(torch.zeros_like(inputs.traces.tokens, dtype=torch.float32)),
}


def _mean_or_rows(config: CreditConfig, sequence: Tensor, length: int) -> Reader:
    streamed = length > config.stream_above and not config.values
    return KeptCalls() if streamed else HeadMean(values=config.values)


READERS: Mapping[str, Callable[[CreditConfig, Tensor, int], Reader]] = {
    "flow": _mean_or_rows,
    "attention": lambda config, sequence, length: HeadMean(values=config.values),
    "attention_flow": lambda config, sequence, length: HeadMean(values=config.values),
    "rollout": lambda config, sequence, length: AttentionRollout(),
    "waad": lambda config, sequence, length: LookBack(sequence, config.horizon),
    "fai": lambda config, sequence, length: LookBack(sequence, config.horizon),
    "coupled": lambda config, sequence, length: LookBack(sequence, config.horizon),
}
"""Makers of readers: from the configuration, [batch, tokens] sequence numbers, and the longest sequence's length."""


# -- parts and figures ------------------------------------------------------------------------------------------------


def join_scores(parts: Sequence[TokenScores]) -> TokenScores:
    """Scores of a batch whose rows were scored in parts; metrics become means weighted by sequences."""
    if len(parts) == 1:
        return parts[0]
    shares = [part.shares for part in parts if part.shares is not None]
    return TokenScores(
        torch.cat([part.scores for part in parts]),
        torch.cat([part.counted for part in parts]),
        torch.cat([part.fallback for part in parts]),
        mean_metrics([(part.metrics, len(part.fallback)) for part in parts]),
        shares=torch.cat(shares) if len(shares) == len(parts) else None,
    )


def mean_metrics(parts: Sequence[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    """Means of the metrics of parts, weighted by the parts' sizes.

    A reason for a fallback that does not occur in a part counts as 0 there; other metrics that a part lacks, because
    all of its sequences fell back, are left out of the mean.
    """
    means = {}
    for name in dict.fromkeys(name for metrics, _ in parts for name in metrics):
        absent = 0.0 if "fallback" in name else math.nan
        pairs = [(metrics.get(name, absent), size) for metrics, size in parts]
        pairs = [(value, size) for value, size in pairs if math.isfinite(value)]
        weight = sum(size for _, size in pairs)
        means[name] = sum(value * size for value, size in pairs) / weight if weight else math.nan
    return means


def fallback_shares(fallback: Tensor) -> dict[str, float]:
    """The share of sequences that fell back, and the share for each reason that occurs."""
    number = max(1, len(fallback))
    counts = torch.bincount(fallback, minlength=len(Fallback)).tolist()
    reasons = {
        reason.name.lower(): counts[reason] / number for reason in Fallback if counts[reason] and reason
    }
    shares = {f"fallback_{name}": share for name, share in reasons.items()}
    return {"fallback": sum(reasons.values()), **shares}


def _flow_metrics(flow: Flow, counted: Tensor) -> dict[str, float]:
    """Figures of a flow for a log, means over the sequences that have one.

    `lost`: share of the question that cannot reach the answer; `path_length`: tokens on a path; `concentration`: 1 −
    the entropy of flow over the scored tokens relative to the largest there could be, so 0 where all tokens carry
    alike; `conservation`: the largest |arrived − 1|.
    """
    metrics = fallback_shares(flow.fallback)
    whole = flow.fallback == 0
    if not whole.any():
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
