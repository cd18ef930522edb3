r"""The causal test of a score: hide the tokens it calls important, and see whether the answer changes.

FlowTracer (arXiv 2606.10646, table 2) masks a fifth of the tokens of GSM8K solutions by flow and counts how often the
answer changes and how often its correctness does: 45.9 % and 14.9 % for the top fifth, 29.5 % and 4.5 % at random,
14.9 % and 0.5 % for the bottom fifth. The paper does not name its operator: here tokens are hidden from attention
with everything in its place, replaced by padding, or deleted.

Only reasoning is masked: response tokens before the answer and its lead-in (`####`, `\boxed{`, a tag). The prompt and
the lead-in stay, and the model writes the answer again, greedily.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from noria.core.errors import ConfigError
from noria.core.statistics.bootstrap import bootstrap_mean
from noria.core.statistics.intervals import Interval, paired_difference
from noria.credit.config import CreditConfig, MaskSettings
from noria.credit.credit import TokenCredit
from noria.credit.responses.answers import Finder, Span, finder, text_of, token_span
from noria.credit.responses.rollout import end_and_pad, sample
from noria.credit.responses.traces import Traces
from noria.credit.scores.weights import top
from noria.credit.signals import TokenScores
from noria.credit.tasks.questions import Question, same
from noria.credit.types import Operator

__all__ = ["AnsweredResponse", "MaskOutcome", "MaskTest", "answered_responses", "area", "mask_test"]

LEAD_IN = re.compile(
    r"(####\s*[^\s\d]{0,8}\s*|\\f?box(?:ed)?\s*\{\s*|<[\w-]+>\s*|(?:answer|=)[\s:]*(?:is\s*)?)\Z",
    re.IGNORECASE,
)
_FEWEST = 5  # reasoning tokens of a response that is tested


@dataclass(frozen=True)
class AnsweredResponse:
    """A question with a response whose answer is known to the token.

    Attributes:
        question: question of the response.
        prompt: token ids of the prompt.
        response: token ids of the response.
        answer: tokens of the response that are its answer.
        reasoning: number of tokens before the answer's lead-in.
    """

    question: Question
    prompt: list[int]
    response: list[int]
    answer: Span
    reasoning: int


@dataclass(frozen=True)
class MaskOutcome:
    """The effect of masking one set of tokens, one value a question.

    Attributes:
        name: name of the score, or `random`.
        end: end of the score that was masked, `top` or `bottom`.
        changed: whether the answer is another one.
        flipped: whether a right answer became wrong, or a wrong one right.
    """

    name: str
    end: str
    changed: list[bool]
    flipped: list[bool]

    def rate(self, which: Literal["changed", "flipped"], generator: np.random.Generator) -> Interval:
        """The share of questions, with its bootstrap interval over them."""
        values = self.changed if which == "changed" else self.flipped
        return bootstrap_mean(np.asarray(values, dtype=float), generator=generator)


@dataclass(frozen=True)
class MaskTest:
    """The results of a mask test.

    Attributes:
        rows: outcomes of every masked set, `random` first.
        scored: scores of the tested responses by name; `fallback` covers all responses that were given.
        responses: responses that were tested.
        left_out: number of responses that were not tested, by reason.
        config: settings of the test.
        right: share answered right with nothing masked.
        tokens: mean number of reasoning tokens.
    """

    rows: list[MaskOutcome]
    scored: Mapping[str, TokenScores]
    responses: list[AnsweredResponse]
    left_out: Mapping[str, int]
    config: MaskSettings
    right: float
    tokens: float

    @property
    def questions(self) -> int:
        """Number of questions that were tested."""
        return len(self.responses)

    def against_random(self, name: str, end: str = "top") -> Interval:
        """Rate of changed answers minus the rate at random, paired by question, with Student's t interval."""
        by_key = {(row.name, row.end): row for row in self.rows}
        ours, random = by_key[name, end].changed, by_key["random", "top"].changed
        return paired_difference([float(x) for x in ours], [float(x) for x in random])


def answered_responses(
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    tokenizer: Any,
    find: str | Finder,
) -> tuple[list[AnsweredResponse], dict[str, int]]:
    """Responses that can be tested, and the number that cannot: without an answer, or with too little before it.

    Args:
        questions: questions of the responses.
        prompts: token ids of each prompt.
        responses: token ids of each response.
        tokenizer: tokenizer of the ids.
        find: finder of answers.
    """
    look, answered = finder(find), []
    left_out = {"no answer": 0, "no reasoning": 0}
    for question, prompt, response in zip(questions, prompts, responses, strict=True):
        span = token_span(response, tokenizer, look)
        if span is None:
            left_out["no answer"] += 1
            continue
        reasoning = _before_lead_in(response, span[0], tokenizer)
        if reasoning < _FEWEST:
            left_out["no reasoning"] += 1
            continue
        answered.append(AnsweredResponse(question, list(prompt), list(response), span, reasoning))
    return answered, {reason: number for reason, number in left_out.items() if number}


def _before_lead_in(response: Sequence[int], start: int, tokenizer: Any) -> int:
    """Number of tokens before the lead-in of the answer that starts at a token."""
    before = text_of(response[:start], tokenizer)
    lead = LEAD_IN.search(before)
    if lead is None or lead.start() == len(before):
        return start
    span = lead.span()
    place = token_span(response, tokenizer, lambda text: span)
    return start if place is None else place[0]


def mask_test(
    model: Any,
    tokenizer: Any,
    responses: Sequence[AnsweredResponse],
    credits: Mapping[str, CreditConfig],
    config: MaskSettings | None = None,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> MaskTest:
    """Mask the top and the bottom share of every response's reasoning by each score, and as many tokens at random.

    Args:
        model: language model that answers.
        tokenizer: tokenizer of the model.
        responses: responses to test, from :func:`answered_responses`.
        credits: credits whose scores are tested, by name.
        config: settings of the test.
        on_batch: called with the number of answers written so far.

    Raises:
        ConfigError: there is no response, or none that every credit can score.
    """
    settings = config or MaskSettings()
    if not responses:
        raise ConfigError("there is no response to test", where="mask-test")
    scored, tested = _scored(model, tokenizer, responses, credits)
    if not tested:
        raise ConfigError("no response with an answer behind reasoning can be scored", where="mask-test")
    traces = traces_of_rows(tested)
    reasoning = reasoning_of(tested, traces)
    noise = torch.from_numpy(np.random.default_rng(settings.seed).random(reasoning.shape, dtype=np.float32))
    sets: dict[tuple[str, str], Tensor] = {}
    sets["random", "top"] = top(noise, reasoning, traces.index, fraction=settings.fraction)
    for name, result in scored.items():
        for end in settings.ends:
            sets[name, end] = top(
                result.scores, reasoning, traces.index, fraction=settings.fraction, lowest=end == "bottom"
            )
    written = 0

    def answers(masked: Tensor) -> list[str | None]:
        nonlocal written
        texts: list[str | None] = []
        for start in range(0, len(tested), settings.batch_size):
            part = slice(start, start + settings.batch_size)
            texts += _answers(model, tokenizer, tested[part], masked[part], settings)
            if on_batch is not None:
                on_batch(written + len(texts))
        written += len(texts)
        return texts

    plain = answers(torch.zeros_like(reasoning))
    right = [row.question.score(text) >= 0.5 for row, text in zip(tested, plain, strict=True)]
    outcomes = []
    for (name, which), masked in sets.items():
        texts = answers(masked)
        changed = [not _alike(text, before) for text, before in zip(texts, plain, strict=True)]
        now = [row.question.score(text) >= 0.5 for row, text in zip(tested, texts, strict=True)]
        flipped = [is_right != was for is_right, was in zip(now, right, strict=True)]
        outcomes.append(MaskOutcome(name, which, changed, flipped))
    unscored = len(responses) - len(tested)
    return MaskTest(
        rows=outcomes,
        scored=scored,
        responses=tested,
        left_out={"no score": unscored} if unscored else {},
        config=settings,
        right=sum(right) / len(tested),
        tokens=float(reasoning.sum()) / len(tested),
    )


def _scored(
    model: Any, tokenizer: Any, responses: Sequence[AnsweredResponse], credits: Mapping[str, CreditConfig]
) -> tuple[dict[str, TokenScores], list[AnsweredResponse]]:
    """Scores by name, on the CPU, of the responses that every credit can score, and those responses."""
    traces = traces_of_rows(responses).to(next(model.parameters()).device)
    _, pad = end_and_pad(tokenizer)
    results = {
        name: TokenCredit(config, replacement=pad).score(model, traces) for name, config in credits.items()
    }
    whole = torch.ones(len(responses), dtype=torch.bool)
    for result in results.values():
        whole &= result.fallback.cpu() == 0
    kept = [response for response, scored in zip(responses, whole.tolist(), strict=True) if scored]
    width = traces_of_rows(kept).tokens.shape[1]
    scores = {
        name: TokenScores(
            result.scores.cpu()[whole, :width],
            result.counted.cpu()[whole, :width],
            result.fallback.cpu(),
            result.metrics,
        )
        for name, result in results.items()
    }
    return scores, kept


def traces_of_rows(responses: Sequence[AnsweredResponse]) -> Traces:
    """The responses as traces, padded behind."""
    return Traces.of(
        [row.prompt for row in responses],
        [row.response for row in responses],
        [row.answer for row in responses],
    )


def reasoning_of(responses: Sequence[AnsweredResponse], traces: Traces) -> Tensor:
    """The tokens that are reasoning, [responses, tokens]."""
    places = torch.arange(traces.tokens.shape[1])
    ends = torch.tensor([len(row.prompt) + row.reasoning for row in responses])
    return traces.response & (places < ends[:, None])


def area(scores: Tensor, positive: Tensor, negative: Tensor) -> list[float]:
    """The chance that a positive token scores above a negative one, ties counting half (AUC), one value a row.

    Args:
        scores: [rows, tokens].
        positive, negative: [rows, tokens] of truth values.

    Returns:
        One value a row; NaN where a row lacks either.
    """
    areas = []
    for values, yes, no in zip(scores, positive, negative, strict=True):
        above, below = values[yes][:, None], values[no]
        wins = (above > below).double() + 0.5 * (above == below).double()
        areas.append(float(wins.mean()) if wins.numel() else float("nan"))
    return areas


def _answers(
    model: Any,
    tokenizer: Any,
    responses: Sequence[AnsweredResponse],
    masked: Tensor,
    config: MaskSettings,
) -> list[str | None]:
    """The answers of some responses, written again with the tokens of `masked` [responses, tokens] masked."""
    prefixes = [[*row.prompt, *row.response[: row.answer[0]]] for row in responses]
    masks = [mask[: len(ids)] for ids, mask in zip(prefixes, masked.tolist(), strict=True)]
    eos, pad = end_and_pad(tokenizer)
    rollouts = sample(
        model,
        [_masked(ids, mask, config.operator, pad) for ids, mask in zip(prefixes, masks, strict=True)],
        new=max(row.answer[1] - row.answer[0] for row in responses) + 8,
        temperature=0.0,
        eos=eos,
        pad=pad,
        hidden=masks if config.operator == "hide" else None,
    )
    find, answers = finder(config.answer), []
    for row, rollout in zip(responses, rollouts, strict=True):
        prefix = row.response[: row.answer[0]]
        before = text_of(prefix, tokenizer)
        text = text_of([*prefix, *rollout.tokens], tokenizer)
        # Only the answer's own line counts: a model may continue with another question behind it.
        text = text[: len(before)] + text[len(before) :].split("\n", 1)[0]
        span = find(text)
        answers.append(None if span is None or span[1] <= len(before) else text[slice(*span)])
    return answers


def _masked(ids: list[int], mask: list[bool], operator: Operator, pad: int) -> list[int]:
    if operator == "delete":
        return [token for token, masked in zip(ids, mask, strict=True) if not masked]
    if operator == "replace":
        return [pad if masked else token for token, masked in zip(ids, mask, strict=True)]
    return ids


def _alike(text: str | None, before: str | None) -> bool:
    if text is None or before is None:
        return text is before
    return same(text, before)
