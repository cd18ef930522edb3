"""Rollouts as credit sees them: which tokens are question, response and answer, in padded or packed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noria.credit.responses.answers import Finder, Span, token_span
from noria.credit.types import Fallback

__all__ = ["Traces", "find_answers"]


@dataclass(frozen=True)
class Traces:
    """A batch of rollouts. Masks are [batch, tokens] of truth values.

    Attributes:
        tokens: [batch, tokens] ids.
        valid: no padding.
        question: where the flow starts.
        response: tokens that the policy wrote: those of tools are not, though the flow may pass through them.
        answer: tokens of the answer.
        sequence: [batch, tokens] numbers of sequences, −1 for padding.
        known: [sequences] a :class:`Fallback` that is known before anything is traced.
        group: [sequences] number of the prompt that each is an answer to.
        correct: [sequences] whether it is right, where that is known.
        positions: [batch, tokens] for models; None where they count the valid tokens from the left.
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
            prompts: ids of each.
            responses: likewise.
            spans: tokens of each response that are its answer; None where it has none.
            pad: id of padding.
            left: on which side.
            skip: ids that are no source of flow (marks of templates, a beginning-of-text token).
            more: other fields.
        """
        rows = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
        width = max(1, *map(len, rows)) if rows else 1
        tokens = torch.full((len(rows), width), pad)
        valid, question, response = (torch.zeros(len(rows), width, dtype=torch.bool) for _ in range(3))
        for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            start = width - len(row) if left else 0
            tokens[number, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
            valid[number, start : start + len(row)] = True
            question[number, start : start + len(prompt)] = True
            response[number, start + len(prompt) : start + len(row)] = True
        return cls.from_masks(tokens, valid, question, response, spans, skip=skip, **more)

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
        """Traces of masks, with each answer counted from the first token of its response.

        A span that is empty, leaves its response or overlaps the prompt is no error: its sequence falls back.

        Args:
            tokens, valid, question, response: as the fields.
            spans: [sequences] tokens of each response, counted among all tokens from its first one.
            skip: ids that are no source of flow.
            longest_answer: the largest share of a response that may be its answer.
            sequence: as the field; a row is one by default.
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
        """How many sequences."""
        return len(self.known)

    @property
    def index(self) -> Tensor:
        """Number of each token's sequence, 0 for padding: for looking things up."""
        return self.sequence.clamp(min=0)

    @property
    def places(self) -> Tensor:
        """Positions for models, [batch, tokens]: those that were given, or the count of valid tokens from the left."""
        return (
            self.positions if self.positions is not None else (self.valid.long().cumsum(1) - 1).clamp(min=0)
        )

    def before_end(self) -> Tensor:
        """Response tokens up to the end of their sequence's answer, which are those that could have led to it."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        ends = places.new_full((self.number + 1,), -1)
        ends.scatter_reduce_(
            0, (self.sequence % (self.number + 1)).flatten(), places.where(self.answer, -1).flatten(), "amax"
        )
        return self.response & (places <= ends[self.index])

    def rows(self, part: slice) -> Traces:
        """Some rows of the batch, where each is one sequence."""
        numbers = torch.arange(self.number, device=self.known.device)[part]
        return Traces(
            tokens=self.tokens[part],
            valid=self.valid[part],
            question=self.question[part],
            response=self.response[part],
            answer=self.answer[part],
            sequence=torch.arange(len(numbers), device=numbers.device)[:, None].where(self.valid[part], -1),
            known=self.known[part],
            group=None if self.group is None else self.group[part],
            correct=None if self.correct is None else self.correct[part],
            positions=None if self.positions is None else self.positions[part],
        )

    def to(self, device: torch.device | str) -> Traces:
        """Elsewhere."""
        moved: dict[str, Any] = {n: None if v is None else v.to(device) for n, v in vars(self).items()}
        return Traces(**moved)


def find_answers(
    responses: Sequence[Sequence[int] | Tensor], tokenizer: Any, find: Finder | Callable[[str], Span | None]
) -> list[Span | None]:
    """The answer of each response as its tokens, None where there is none."""
    return [token_span(ids, tokenizer, find) for ids in responses]
