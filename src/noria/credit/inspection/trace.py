"""The flow of one response as data: every token with what passes it, the backbone, the hubs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from noria.credit.config import CreditConfig
from noria.credit.credit import TokenCredit, evaluating, inputs_of
from noria.credit.responses.traces import Traces
from noria.credit.scores.backbone import Backbone, backbone, hubs
from noria.credit.types import Fallback

__all__ = ["TokenTrace", "Trace", "pieces", "trace"]

Part = Literal["question", "prompt", "reasoning", "answer", "after"]


@dataclass(frozen=True)
class TokenTrace:
    """A token of a trace.

    Attributes:
        text: what it adds to the text.
        part: `question` where flow starts, `prompt` where it does not, `reasoning`, `answer`, or `after` it.
        reach: h, expected visits of the backward walk.
        flow: f, the mass that passes it.
        throughput: τ.
        weight: of its advantage.
        chosen: whether it gets more than the others.
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
        tokens: prompt and response.
        backbone: the edges that carry most of it.
        hubs: reasoning tokens with most throughput: place and τ, the strongest first.
        fallback: why there is no flow; "none" where there is.
        layers: read.
        lost: share of the question that cannot reach the answer.
        path_length: mean tokens on a path.
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
        """JSON values."""
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
    limit: int = 4096,
) -> Trace:
    """Trace one response.

    Args:
        model: that wrote it, or any other that reads it.
        tokenizer: of the ids.
        prompt: ids.
        response: ids.
        config: of the flow and the weights.
        span: tokens of the response that are its answer; None where it has none.
        share: of the edge flow that the backbone carries.
        limit: the most edges that are kept.
    """
    credit = TokenCredit(config)
    skip = tokenizer.all_special_ids if config.skip_special else ()
    traces = Traces.of([prompt], [response], [span], skip=skip, longest_answer=config.longest_answer)
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
        backbone=backbone(read, flow, share=share, limit=limit),
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
    """What each token adds to the text before it; a character of several tokens goes to the last of them."""

    def decoded(start: int, stop: int) -> str:
        return str(tokenizer.decode(list(ids[start:stop]), clean_up_tokenization_spaces=False))

    found: list[str] = []
    begin = settled = 0  # text is settled up to both: never amid a character
    for place in range(1, len(ids) + 1):
        before, after = decoded(begin, settled), decoded(begin, place)
        if after.endswith("�") and place < len(ids):
            found.append("")
            continue
        found.append(after[len(before) :])
        begin, settled = settled, place
    return found
