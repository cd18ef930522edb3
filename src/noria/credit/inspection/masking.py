r"""The causal test of a score: hide the tokens it calls important, and see whether the answer changes.

FlowTracer (arXiv 2606.10646, table 2) masks a fifth of the tokens of GSM8K solutions by flow and counts how often the
answer changes and how often its correctness does: 45.9 % and 14.9 % for the top fifth, 29.5 % and 4.5 % at random,
14.9 % and 0.5 % for the bottom fifth. By which operator it masks is not said: here tokens are hidden from attention
with everything in its place, replaced by padding, or deleted.

What is masked is reasoning: response tokens before the answer and its lead-in (`####`, `\boxed{`, a tag). The prompt
and the lead-in stay, and the model answers anew, greedily.
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
from noria.credit.config import CreditConfig
from noria.credit.credit import Scored, TokenCredit
from noria.credit.responses.answers import Finder, Span, finder, token_span
from noria.credit.responses.rollout import sample
from noria.credit.responses.traces import Traces
from noria.credit.scores.weights import top
from noria.credit.tasks.questions import Question, same
from noria.credit.types import Operator

__all__ = ["MaskTest", "Masked", "Reasoned", "area", "mask_test", "reasoned"]

LEAD_IN = re.compile(
    r"(####\s*[^\s\d]{0,8}\s*|\\f?box(?:ed)?\s*\{\s*|<[\w-]+>\s*|(?:answer|=)[\s:]*(?:is\s*)?)\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reasoned:
    """A question with a response whose answer is known to the token.

    Attributes:
        question: that was asked.
        prompt: its ids.
        response: ids.
        answer: tokens of the response that are its answer.
        reasoning: how many tokens come before the answer's lead-in.
    """

    question: Question
    prompt: list[int]
    response: list[int]
    answer: Span
    reasoning: int


@dataclass(frozen=True)
class Masked:
    """What hiding a set of tokens did, one value a question.

    Attributes:
        name: of the score, or `random`.
        end: `top` or `bottom`.
        changed: whether the answer is another one.
        flipped: whether it was right and is not, or the other way round.
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
    """A mask test.

    Attributes:
        rows: what was masked and what that did; `random` first.
        scored: scores of the tested rows by name; `fallback` is of all that were given.
        reasoned: the rows tested.
        left_out: how many were not, by reason.
        fraction: of the reasoning tokens that was masked.
        operator: how.
        right: the share answered right with nothing masked.
        tokens: mean number of reasoning tokens.
    """

    rows: list[Masked]
    scored: Mapping[str, Scored]
    reasoned: list[Reasoned]
    left_out: Mapping[str, int]
    fraction: float
    operator: Operator
    right: float
    tokens: float

    @property
    def questions(self) -> int:
        """How many were tested."""
        return len(self.reasoned)

    def against_random(self, name: str, end: str = "top") -> Interval:
        """Change of the answer, this against random, paired by question: Student's t interval."""
        by_key = {(row.name, row.end): row for row in self.rows}
        ours, random = by_key[name, end].changed, by_key["random", "top"].changed
        return paired_difference([float(x) for x in ours], [float(x) for x in random])


def reasoned(
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    tokenizer: Any,
    find: str | Finder,
    *,
    least: int = 5,
) -> tuple[list[Reasoned], dict[str, int]]:
    """Responses that can be tested, and how many cannot, by reason: without an answer, or with too little before it.

    Args:
        questions: that were asked.
        prompts: their ids.
        responses: ids.
        tokenizer: of the ids.
        find: finder of answers.
        least: reasoning tokens that are needed.
    """
    look, found = finder(find), []
    left_out = {"no answer": 0, "no reasoning": 0}
    for question, prompt, response in zip(questions, prompts, responses, strict=True):
        span = token_span(response, tokenizer, look)
        if span is None:
            left_out["no answer"] += 1
            continue
        before = tokenizer.decode(
            list(response[: span[0]]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        lead = LEAD_IN.search(before)
        reasoning = span[0]
        if lead is not None and lead.start() < len(before):
            place = token_span(response, tokenizer, _at(lead.start(), lead.end()))
            reasoning = place[0] if place is not None else reasoning
        if reasoning < least:
            left_out["no reasoning"] += 1
            continue
        found.append(Reasoned(question, list(prompt), list(response), span, reasoning))
    return found, {reason: n for reason, n in left_out.items() if n}


def mask_test(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Reasoned],
    credits: Mapping[str, CreditConfig],
    *,
    ends: Sequence[str] = ("top", "bottom"),
    find: str | Finder = "auto",
    fraction: float = 0.2,
    operator: Operator = "hide",
    left_out: Mapping[str, int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> MaskTest:
    """Mask the top and the bottom share of every response's reasoning by each score, and as many tokens at random.

    Args:
        model: that answers.
        tokenizer: its own.
        rows: as of :func:`reasoned`.
        credits: whose scores are tested, by name.
        ends: of each.
        find: finder of answers in what is written anew.
        fraction: of the reasoning tokens.
        operator: how they are masked.
        left_out: how many were left out before, by reason.
        batch_size: answers written together.
        seed: of what is random.
        on_batch: called with the number of answers written.

    Raises:
        ConfigError: nothing to test, or a fraction out of its range.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"{fraction} is no share between 0 and 1", where="fraction")
    if not rows:
        raise ConfigError("there is no response to test", where="mask-test")
    scored, rows = score_rows(model, tokenizer, rows, credits)
    gone = len(next(iter(scored.values())).fallback) - len(rows) if scored else 0
    if not rows:
        raise ConfigError("no response with an answer behind reasoning can be scored", where="mask-test")
    traces = traces_of_rows(rows)
    reasoning = reasoning_of(rows, traces)
    drawn = torch.from_numpy(np.random.default_rng(seed).random(reasoning.shape, dtype=np.float32))
    sets = {("random", "top"): top(drawn, reasoning, traces.index, fraction=fraction)}
    for name, found in scored.items():
        for end in ends:
            sets[name, end] = top(
                found.scores, reasoning, traces.index, fraction=fraction, lowest=end == "bottom"
            )
    written = 0

    def told(count: int) -> None:
        nonlocal written
        written += count
        if on_batch is not None:
            on_batch(written)

    def answers(masked: Tensor) -> list[str | None]:
        return _answers_without(model, tokenizer, rows, masked, find, operator, batch_size, told)

    plain = answers(torch.zeros_like(reasoning))
    right = [row.question.score(text) >= 0.5 for row, text in zip(rows, plain, strict=True)]
    outcomes = []
    for (name, end), masked in sets.items():
        given = answers(masked)
        flips = [
            (row.question.score(text) >= 0.5) != was
            for row, text, was in zip(rows, given, right, strict=True)
        ]
        outcomes.append(
            Masked(name, end, [not _alike(a, b) for a, b in zip(given, plain, strict=True)], flips)
        )
    return MaskTest(
        rows=outcomes,
        scored=scored,
        reasoned=list(rows),
        left_out=dict(left_out or {}) | ({"no score": gone} if gone else {}),
        fraction=fraction,
        operator=operator,
        right=sum(right) / len(rows),
        tokens=float(reasoning.sum()) / len(rows),
    )


def score_rows(
    model: Any, tokenizer: Any, rows: Sequence[Reasoned], credits: Mapping[str, CreditConfig]
) -> tuple[dict[str, Scored], list[Reasoned]]:
    """Scores by name, on the CPU, of the rows that every credit can score, and those rows."""
    traces, found = traces_of_rows(rows), {}
    for name, config in credits.items():
        credit = TokenCredit(config, replacement=_blank(tokenizer))
        found[name] = credit.score(model, traces.to(_device(model)))
    whole = torch.ones(len(rows), dtype=torch.bool)
    for scored in found.values():
        whole &= scored.fallback.cpu() == 0
    kept = [row for row, fine in zip(rows, whole.tolist(), strict=True) if fine]
    width = traces_of_rows(kept).tokens.shape[1]
    return {
        name: Scored(
            scored.scores.cpu()[whole, :width],
            scored.counted.cpu()[whole, :width],
            scored.fallback.cpu(),
            scored.metrics,
        )
        for name, scored in found.items()
    }, kept


def traces_of_rows(rows: Sequence[Reasoned]) -> Traces:
    """The rows as traces, padded behind."""
    return Traces.of(
        [row.prompt for row in rows], [row.response for row in rows], [row.answer for row in rows]
    )


def reasoning_of(rows: Sequence[Reasoned], traces: Traces) -> Tensor:
    """Which tokens are reasoning, [rows, tokens]."""
    places = torch.arange(traces.tokens.shape[1])
    ends = torch.tensor([len(row.prompt) + row.reasoning for row in rows])
    return traces.response & (places < ends[:, None])


def area(scores: Tensor, positive: Tensor, negative: Tensor) -> list[float]:
    """For each row, the chance that a positive token scores above a negative one (ties count half): AUC.

    Args:
        scores: [rows, tokens].
        positive, negative: [rows, tokens] of truth values.

    Returns:
        One value a row; NaN where a row lacks either.
    """
    found = []
    for row in range(len(scores)):
        yes, no = scores[row][positive[row]], scores[row][negative[row]]
        if not len(yes) or not len(no):
            found.append(float("nan"))
            continue
        above = (yes[:, None] > no).double() + 0.5 * (yes[:, None] == no).double()
        found.append(float(above.mean()))
    return found


# -- answering anew ---------------------------------------------------------------------------------------------------


def _answers_without(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Reasoned],
    masked: Tensor,
    find: str | Finder,
    operator: Operator,
    batch_size: int,
    told: Callable[[int], None],
) -> list[str | None]:
    """What each row answers when the tokens of `masked` [rows, tokens] are not to be seen."""
    look, found = finder(find), []
    ends = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    blank = _blank(tokenizer)
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        begun = [[*row.prompt, *row.response[: row.answer[0]]] for row in part]
        masks = [masked[start + n, : len(ids)].tolist() for n, ids in enumerate(begun)]
        if operator == "delete":
            prefixes = [
                [t for t, gone in zip(ids, mask, strict=True) if not gone]
                for ids, mask in zip(begun, masks, strict=True)
            ]
        elif operator == "replace":
            prefixes = [
                [blank if gone else t for t, gone in zip(ids, mask, strict=True)]
                for ids, mask in zip(begun, masks, strict=True)
            ]
        else:
            prefixes = begun
        new = max(row.answer[1] - row.answer[0] for row in part) + 8
        done = sample(
            model,
            prefixes,
            new=new,
            temperature=0.0,
            eos=ends,
            pad=blank,
            hidden=masks if operator == "hide" else None,
        )
        for row, rollout in zip(part, done, strict=True):
            text = tokenizer.decode(
                [*row.response[: row.answer[0]], *rollout.tokens],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            before = tokenizer.decode(
                row.response[: row.answer[0]], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            # The answer's own line: what a model goes on to write behind it is not it.
            text = text[: len(before)] + text[len(before) :].split("\n", 1)[0]
            span = look(text)
            found.append(None if span is None or span[1] <= len(before) else text[slice(*span)])
        told(len(part))
    return found


def _at(start: int, stop: int) -> Finder:
    return lambda text: (start, stop)


def _alike(given: str | None, before: str | None) -> bool:
    if given is None or before is None:
        return given is before
    return same(given, before)


def _blank(tokenizer: Any) -> int:
    """An id that says nothing."""
    for name in ("pad_token_id", "eos_token_id"):
        if getattr(tokenizer, name, None) is not None:
            return int(getattr(tokenizer, name))
    return 0


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
