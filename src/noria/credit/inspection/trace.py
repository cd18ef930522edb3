"""The flow of one response as data: every token with its flow, the backbone, the hubs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from noria.credit.config import CreditConfig
from noria.credit.credit import TokenCredit
from noria.credit.passes import evaluating, inputs_of
from noria.credit.responses.traces import Traces, trace_settings
from noria.credit.scores.backbone import Backbone, backbone, hubs
from noria.credit.types import Fallback

__all__ = ["TokenTrace", "Trace", "pieces", "trace"]

Part = Literal["question", "prompt", "reasoning", "answer", "after"]


@dataclass(frozen=True)
class TokenTrace:
    """One token of a trace.

    Attributes:
        text: text that the token adds.
        part: `question` where flow starts, `prompt` where it does not, `reasoning`, `answer`, or `after` the answer.
        reach: h, expected visits of the backward walk.
        flow: f, the mass that passes the token.
        throughput: τ, inflow and outflow.
        weight: weight of the token's advantage.
        chosen: whether the rule chose the token.
    """

    text: str
    part: Part
    reach: float
    flow: float
    throughput: float
    weight: float
    chosen: bool


@dataclass(frozen=True)
class Trace:
    """The flow of one response.

    Attributes:
        tokens: tokens of the prompt and the response.
        backbone: edges that carry most of the flow.
        hubs: reasoning tokens with most throughput: place and τ, the strongest first.
        fallback: reason why there is no flow; "none" where there is one.
        layers: numbers of the layers read.
        lost: share of the question that cannot reach the answer.
        path_length: mean number of tokens on a path.
        arrived: mass at the answer.
    """

    tokens: list[TokenTrace]
    backbone: Backbone
    hubs: list[tuple[int, float]]
    fallback: str
    layers: list[int]
    lost: float | None
    path_length: float | None
    arrived: float | None

    def to_json(self) -> dict[str, Any]:
        """The trace as JSON values."""
        return asdict(self)


@torch.no_grad()
def trace(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    response: Sequence[int],
    config: CreditConfig,
    span: tuple[int, int] | None,
    *,
    share: float = 0.8,
) -> Trace:
    """Trace one response.

    Args:
        model: language model that wrote the response, or any other that reads it.
        tokenizer: tokenizer of the ids.
        prompt: token ids of the prompt.
        response: token ids of the response.
        config: settings of the flow and the weights.
        span: tokens of the response that are its answer; None where it has none.
        share: share of the edge flow that the backbone carries.
    """
    credit = TokenCredit(config)
    traces = Traces.of([prompt], [response], [span], **trace_settings(config, tokenizer))
    traces = traces.to(next(model.parameters()).device)
    length = traces.tokens.shape[1]
    tap = credit.tap(model, lambda: traces.sequence, length=length)
    with evaluating(model), tap:
        model(**inputs_of(traces))
    read = tap.passes[0]["read"]
    scored = credit.from_read(read, traces)
    weighed = credit.weigh(scored, traces)
    flow = scored.flow
    assert flow is not None
    whole = int(flow.fallback[0]) == 0
    texts = pieces([*prompt, *response], tokenizer)
    begin, question = len(prompt), traces.question[0].tolist()
    columns = (flow.reach, flow.flow, flow.throughput, weighed.weights, weighed.chosen)
    values = [column[0].tolist() for column in columns]
    tokens = [
        TokenTrace(texts[n], _part(n, begin, question[n], span), *(column[n] for column in values))
        for n in range(length)
    ]
    reasoning = traces.before_end() & ~traces.answer
    return Trace(
        tokens=tokens,
        backbone=backbone(read, flow, share=share),
        hubs=hubs(flow, reasoning),
        fallback=Fallback(int(flow.fallback[0])).name.lower(),
        layers=[layer.index for layer in credit.layers(model)],
        lost=float(flow.lost[0]) if whole else None,
        path_length=float(flow.path_length[0]) if whole else None,
        arrived=float(flow.arrived[0]) if whole else None,
    )


def _part(place: int, begin: int, question: bool, span: tuple[int, int] | None) -> Part:
    if place < begin:
        return "question" if question else "prompt"
    if span is None or place < begin + span[0]:
        return "reasoning"
    return "answer" if place < begin + span[1] else "after"


def pieces(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text that each token adds; a character of several tokens goes to the last of them."""

    def decoded(start: int, stop: int) -> str:
        return str(tokenizer.decode(list(ids[start:stop]), clean_up_tokenization_spaces=False))

    texts: list[str] = []
    begin = settled = 0  # decode from `begin` only; both lie between characters, never inside one
    for place in range(1, len(ids) + 1):
        before, after = decoded(begin, settled), decoded(begin, place)
        if after.endswith("�") and place < len(ids):
            texts.append("")
            continue
        texts.append(after[len(before) :])
        begin, settled = settled, place
    return texts
