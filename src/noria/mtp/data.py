"""The policy's own samples, from the files that training frameworks write, packed into rows.

One object a line (`.jsonl`) or one row each (`.parquet`), in any of four forms:

| form | trained on |
| --- | --- |
| `prompt` and `completion`, text (TRL) | the completion |
| `messages` of a chat, or `prompt` and `completion` as messages | the last message, which must be the assistant's |
| `text` | all of it |
| `input_ids`, with `loss_mask` or not | where the mask is 1 |
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import DataError
from noria.core.records import read_records

HELD_OUT = 0.05
"""Share of the text that a training keeps to be scored on, where it has enough of it."""


@dataclass(frozen=True)
class Document:
    """Tokens, and which of them are trained on."""

    tokens: Sequence[int]
    mask: Sequence[bool]


@dataclass(frozen=True)
class Rows:
    """Text packed into rows.

    Attributes:
        tokens: [rows, n] int64.
        segments: number of each token's document in its row [rows, n], negative for padding.
        mask: what is trained on [rows, n] bool: the policy's own tokens, not prompts.
    """

    tokens: Tensor
    segments: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Tensor | slice) -> Rows:
        return Rows(self.tokens[index], self.segments[index], self.mask[index])

    def to(self, device: Any) -> Rows:
        """Copy the rows to another device."""
        return Rows(*(t.to(device) for t in (self.tokens, self.segments, self.mask)))

    @classmethod
    def of(cls, tokens: Tensor, *, segments: Tensor | None = None, mask: Tensor | None = None) -> Rows:
        """Rows of one document each that is all trained on, unless segments or mask say otherwise."""
        return cls(
            tokens,
            torch.zeros_like(tokens) if segments is None else segments,
            torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask,
        )

    def digest(self) -> str:
        """Hash of all tokens, documents and masks."""
        digest = hashlib.sha256()
        for part in (self.tokens, self.segments, self.mask):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()[:16]

    def held_out(self, seed: int) -> tuple[Rows, Rows | None]:
        """Text to train on and text that is held out, the same whenever the seed is; None where there is too little."""
        count = min(256, round(len(self) * HELD_OUT))
        if count < 1:
            return self, None
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self[order[count:]], self[order[:count]]

    @property
    def positions(self) -> Tensor:
        """Place of each token in its document [rows, n]."""
        index = torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        starts = torch.ones_like(self.tokens, dtype=torch.bool)
        starts[:, 1:] = self.segments[:, 1:] != self.segments[:, :-1]
        return index - index.where(starts, 0).cummax(1).values


def rows_of_step(step: int, size: int, count: int, seed: int) -> Tensor:
    """Which of `count` rows a step takes [size]: each once an epoch, in an order that the seed gives."""
    places = torch.arange(step * size, (step + 1) * size)
    rows = torch.empty_like(places)
    for epoch in range(int(places[0]) // count, int(places[-1]) // count + 1):
        generator = torch.Generator().manual_seed((seed << 24) + epoch)
        order, here = torch.randperm(count, generator=generator), places // count == epoch
        rows[here] = order[places[here] % count]
    return rows


@dataclass(frozen=True)
class Samples:
    """Text that was read from a file.

    Attributes:
        rows: packed text.
        documents: number of documents in it.
        cut: number of documents that were longer than a row and lost their end.
        short: number of documents that were left out, having nothing to train on.
    """

    rows: Rows
    documents: int
    cut: int
    short: int


def read_samples(
    path: Path,
    tokenizer: Any,
    *,
    length: int,
    vocab: int,
    on_document: Callable[[int], None] | None = None,
) -> Samples:
    """Read and pack a file.

    Args:
        path: `.jsonl` or `.parquet`.
        tokenizer: tokenizer of the model.
        length: tokens of a row.
        vocab: how many tokens the model has; a number beyond them is an error.
        on_document: called with how many were read.

    Raises:
        DataError: with file and line: no such file, another kind, malformed, of no known form, or nothing to train on.
        MissingExtra: Parquet without pyarrow.
    """
    records = read_records(path, "samples")

    def documents() -> Iterator[Document]:
        for number, (where, record) in enumerate(records, start=1):
            document = _document(record, tokenizer, where)
            if any(not 0 <= token < vocab for token in document.tokens):
                raise DataError(
                    f"a token outside the vocabulary of {vocab}",
                    where=where,
                    mend="is it another model's text?",
                )
            yield document
            if on_document is not None:
                on_document(number)

    try:
        return pack_documents(documents(), length)
    except DataError as error:
        raise error if error.where else DataError(error.what, where=str(path), mend=error.mend) from error


def pack_documents(documents: Iterable[Document], length: int) -> Samples:
    """Fill rows with whole documents, one after another; one that does not fit begins the next row.

    Args:
        documents: documents in the order of the rows.
        length: tokens of a row.

    Raises:
        DataError: there is nothing to train on.
    """
    rows: list[
        list[tuple[Tensor, Tensor]]
    ] = []  # numbers of four bytes: Python's own take ten times the room
    room = count = cut = short = 0
    for document in documents:
        if len(document.tokens) > length:
            document, cut = Document(document.tokens[:length], document.mask[:length]), cut + 1
        if not any(document.mask):
            short += 1
            continue
        if len(document.tokens) > room:
            rows.append([])
            room = length
        rows[-1].append(
            (torch.tensor(document.tokens, dtype=torch.int32), torch.tensor(document.mask, dtype=torch.bool))
        )
        room -= len(document.tokens)
        count += 1
    if not rows:
        raise DataError("nothing to train on", mend="give samples with completions")
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), -1)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, inside in enumerate(rows):
        at = 0
        for number, (own, trained) in enumerate(inside):
            end = at + len(own)
            tokens[row, at:end], mask[row, at:end] = own, trained
            segments[row, at:end] = number
            at = end
    return Samples(Rows(tokens, segments, mask), count, cut, short)


# -- one record -------------------------------------------------------------------------------------------------------


def _document(record: Mapping[str, Any], tokenizer: Any, where: str) -> Document:
    if (ids := record.get("input_ids")) is not None:
        tokens = token_ids(ids, where)
        mask = record.get("loss_mask")
        mask = [1] * len(tokens) if mask is None else mask
        if not isinstance(mask, list) or len(mask) != len(tokens) or any(m not in (0, 1) for m in mask):
            raise DataError(
                "loss_mask does not fit input_ids", where=where, mend=f"give a list of {len(tokens)} 0 and 1"
            )
        return Document(tokens, [bool(m) for m in mask])
    messages = record.get("messages")
    prompt, completion = record.get("prompt"), record.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        messages = [*prompt, *completion]
    if messages is not None:
        return _chat(messages, tokenizer, where)
    if isinstance(completion, str) and isinstance(prompt, str):
        question = encode(tokenizer, prompt)
        answer = encode(tokenizer, completion, special=False)
        return Document(question + answer, [False] * len(question) + [True] * len(answer))
    if isinstance(text := record.get("text"), str):
        ids = encode(tokenizer, text)
        return Document(ids, [True] * len(ids))
    raise DataError(
        f"a record with {', '.join(map(repr, list(record)[:4])) or 'nothing'}",
        where=where,
        mend="give prompt and completion, messages, text, or input_ids",
    )


def token_ids(value: Any, where: str) -> list[int]:
    """The list of token numbers in a record.

    Raises:
        DataError: they are none.
    """
    if not isinstance(value, list) or not all(isinstance(t, int) and not isinstance(t, bool) for t in value):
        raise DataError("input_ids is no list of whole numbers", where=where, mend="give token numbers")
    return list(value)


def _chat(messages: Any, tokenizer: Any, where: str) -> Document:
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(m, Mapping) for m in messages)
        or messages[-1].get("role") != "assistant"
    ):
        raise DataError(
            "the chat does not end with the assistant", where=where, mend="end it with what the policy said"
        )
    try:
        whole = list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))
        prompt = list(
            tokenizer.apply_chat_template(
                messages[:-1], tokenize=True, add_generation_prompt=True, return_dict=False
            )
        )
    except Exception as error:  # templates raise whatever they like
        raise DataError(f"the chat template refuses it ({error})".splitlines()[0], where=where) from error
    if whole[: len(prompt)] != prompt:
        raise DataError(
            "the chat template writes the prompt otherwise once it is answered",
            where=where,
            mend="give prompt and completion, or input_ids with loss_mask",
        )
    return Document(whole, [False] * len(prompt) + [True] * (len(whole) - len(prompt)))


def encode(tokenizer: Any, text: str, *, special: bool = True) -> list[int]:
    """Token numbers of a text, with the special tokens that the tokenizer puts around it or without."""
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])
