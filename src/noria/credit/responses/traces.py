"""Batches of rollouts that mark each token as question, response or answer, in padded or packed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from noria.credit.config import CreditConfig
from noria.credit.responses.answers import Finder, Span, token_span
from noria.credit.types import Fallback


@dataclass(frozen=True)
class Traces:
    """A batch of rollouts. Masks are [batch, tokens] of truth values.

    Attributes:
        tokens: [batch, tokens] token ids.
        valid: tokens that are not padding.
        question: tokens where the flow starts.
        response: tokens that the policy wrote; tokens of tools are not, though the flow may pass through them.
        answer: tokens of the answer.
        sequence: [batch, tokens] numbers of sequences, −1 for padding.
        known: [sequences] a :class:`Fallback` that is known before anything is traced.
        group: [sequences] number of the prompt that each responds to.
        correct: [sequences] whether each is right, where that is known.
        positions: [batch, tokens] positions for models; None where they count the valid tokens from the left.
    """

    tokens: Tensor
    valid: Tensor
    question: Tensor
    response: Tensor
    answer: Tensor
    sequence: Tensor
    known: Tensor
    group: Tensor | None = None
    correct: Tensor | None = None
    positions: Tensor | None = None

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        spans: Sequence[Span | None],
        *,
        pad: int = 0,
        left: bool = False,
        skip: Sequence[int] = (),
        **more: Any,
    ) -> Traces:
        """Rows of one sequence each, padded behind, or in front where `left`.

        Args:
            prompts: token ids of each prompt.
            responses: token ids of each response.
            spans: tokens of each response that are its answer; None where it has none.
            pad: id of padding.
            left: whether padding goes in front.
            skip: ids that are no source of flow (marks of templates, a beginning-of-text token).
            more: other arguments of :meth:`from_masks`.
        """
        rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
        width = max(1, *map(len, rows)) if rows else 1
        tokens = torch.full((len(rows), width), pad)
        question, response = (torch.zeros(len(rows), width, dtype=torch.bool) for _ in range(2))
        for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            start = width - len(row) if left else 0
            tokens[number, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
            question[number, start : start + len(prompt)] = True
            response[number, start + len(prompt) : start + len(row)] = True
        return cls.from_masks(tokens, question | response, question, response, spans, skip=skip, **more)

    @classmethod
    def from_masks(
        cls,
        tokens: Tensor,
        valid: Tensor,
        question: Tensor,
        response: Tensor,
        spans: Sequence[Span | None],
        *,
        skip: Sequence[int] = (),
        longest_answer: float = 1.0,
        sequence: Tensor | None = None,
        **more: Any,
    ) -> Traces:
        """Build traces from masks, with each answer counted from the first token of its response.

        A span that is empty, leaves its response or overlaps the prompt is no error: its sequence falls back.

        Args:
            tokens, valid, question, response: the fields of those names.
            spans: [sequences] answer tokens of each response, counted among all tokens from its first one.
            skip: ids that are no source of flow.
            longest_answer: largest share of a response that may be its answer.
            sequence: the field of that name; each row is one sequence by default.
            more: other fields.
        """
        if sequence is None:
            sequence = torch.arange(len(tokens), device=tokens.device)[:, None].where(valid, -1)
        answer = torch.zeros_like(valid)
        known = torch.zeros(len(spans), dtype=torch.long)
        written = response & valid
        for number, span in enumerate(spans):
            own = sequence == number
            places = (written & own).nonzero()
            if not len(places):
                known[number] = int(Fallback.NO_RESPONSE)
            elif span is None:
                known[number] = int(Fallback.NO_ANSWER)
            else:
                row, first = (int(x) for x in places[0])
                last = int(own[row].nonzero()[-1])
                start, stop = first + span[0], first + span[1]
                if not first <= start < stop <= last + 1:
                    known[number] = int(Fallback.BAD_ANSWER)
                elif (stop - start) > longest_answer * len(places):
                    known[number] = int(Fallback.LONG_ANSWER)
                else:
                    answer[row, start:stop] = True
        for token in skip:
            question = question & (tokens != token)
        return cls(
            tokens, valid, question & valid, written, answer, sequence, known.to(tokens.device), **more
        )

    @property
    def number(self) -> int:
        """Number of sequences in the batch."""
        return len(self.known)

    @property
    def index(self) -> Tensor:
        """Number of each token's sequence, 0 for padding, to index values of sequences with."""
        return self.sequence.clamp(min=0)

    @property
    def places(self) -> Tensor:
        """Positions for models, [batch, tokens]: the field, or the count of valid tokens from the left."""
        counted = (self.valid.long().cumsum(1) - 1).clamp(min=0)
        return counted if self.positions is None else self.positions

    def before_end(self) -> Tensor:
        """Response tokens up to the end of their sequence's answer: those that could have led to it."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        ends = places.new_full((self.number + 1,), -1)
        ends.scatter_reduce_(
            0, (self.sequence % (self.number + 1)).flatten(), places.where(self.answer, -1).flatten(), "amax"
        )
        return self.response & (places <= ends[self.index])

    def rows(self, part: slice) -> Traces:
        """Select rows of the batch, where each row is one sequence."""
        picked = self._each(lambda values: values[part])
        numbers = torch.arange(picked.number, device=self.known.device)
        return replace(picked, sequence=numbers[:, None].where(picked.valid, -1))

    def to(self, device: torch.device | str) -> Traces:
        """Move every field to a device."""
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Traces:
        fields: dict[str, Any] = {
            name: None if values is None else change(values) for name, values in vars(self).items()
        }
        return Traces(**fields)


def find_answers(
    responses: Sequence[Sequence[int] | Tensor], tokenizer: Any, find: Finder
) -> list[Span | None]:
    """The answer of each response as its tokens, None where there is none."""
    return [token_span(ids, tokenizer, find) for ids in responses]


def trace_settings(config: CreditConfig, tokenizer: Any) -> dict[str, Any]:
    """The arguments of :meth:`Traces.of` and :meth:`Traces.from_masks` that a configuration decides."""
    skip = tokenizer.all_special_ids if config.skip_special else ()
    return {"skip": skip, "longest_answer": config.longest_answer}


def completion_traces(
    tokens: Tensor,
    valid: Tensor,
    written: Tensor,
    tokenizer: Any,
    find: Finder,
    config: CreditConfig,
    **more: Any,
) -> Traces:
    """Traces of rows as trainers keep them: the prompt padded in front, the completion in the last columns.

    Args:
        tokens, valid: the fields of those names.
        written: [batch, completion tokens] tokens of the completion that the policy wrote.
        tokenizer: tokenizer of the ids.
        find: finder of answers.
        config: settings of the credit.
        more: other fields.
    """
    length = written.shape[1]
    question, response = valid.clone(), torch.zeros_like(valid)
    question[:, -length:] = False
    response[:, -length:] = written
    spans: list[Span | None] = []
    for row, own, mine in zip(tokens, valid[:, -length:], written, strict=True):
        places = own.nonzero()[:, 0]
        span = token_span(row[-length:][places], tokenizer, find)
        if span is not None and mine.any():
            # The span counts the tokens that are there, tools' among them; `from_masks` counts places from the
            # policy's first token.
            first = int(mine.int().argmax())
            span = int(places[span[0]]) - first, int(places[span[1] - 1]) + 1 - first
        spans.append(span)
    return Traces.from_masks(
        tokens, valid, question, response, spans, **trace_settings(config, tokenizer), **more
    )
