"""The shop's chat models: how a dialogue is written for them, and answers of many dialogues at once.

A model is a small Qwen3 of :mod:`noria.core.models.lm`, trained on the dialogues of this room. It reads lower case
only, so that no user can write the words in capitals that part a dialogue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from noria.core.models.lm import load_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SYSTEM, USER, RESULT, LONGEST = 96, 40, 48, 36
"""Most tokens of the instructions' end, the user's words, a tool's result, and a piece of the answer."""
_END, _PAD = 0, 1


@dataclass(frozen=True)
class Turn:
    """A dialogue up to where the model speaks.

    Attributes:
        system: instructions.
        tools: names of the tools on offer.
        user: last words of the user.
        pictured: whether the user brought a picture.
        call: call that was made; empty where none was.
        result: result of the call.
    """

    system: str
    tools: tuple[str, ...]
    user: str
    pictured: bool = False
    call: str = ""
    result: str = ""


def plain(text: str) -> str:
    """Words as the model reads them: lower case, one blank between two, no signs of JSON."""
    return " ".join(re.sub(r"[^a-z0-9.,:;!?()'\[\]_€%-]+", " ", text.lower().replace("€", " eur ")).split())


class Writer:
    """Writes dialogues as token numbers.

    Args:
        tokenizer: tokenizer of the models.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    def tokens(self, text: str) -> list[int]:
        """Token numbers of a text."""
        numbers: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return numbers

    def before(self, turn: Turn) -> list[int]:
        """The dialogue up to the call or, where one was made, up to the answer."""
        head = [
            *self.tokens(" BODY"), *self.tokens(" " + plain(turn.system))[-SYSTEM:],
            *self.tokens(" TOOLS " + " ".join(turn.tools)),
            *self.tokens(" USER"), *self.tokens(" " + plain(turn.user))[:USER],
            *(self.tokens(" [picture]") if turn.pictured else []), *self.tokens(" SAY"),
        ]  # fmt: skip
        if turn.call:
            head += [*self.tokens(f" CALL {turn.call}"), _END, *self.tokens(" RESULT")]
            head += [*self.tokens(" " + plain(turn.result))[:RESULT], *self.tokens(" SAY")]
        return head


class ChatModel:
    """A trained model of the shop.

    Args:
        folder: folder of the model.
        threads: threads of PyTorch in this process.
    """

    def __init__(self, folder: Path) -> None:
        self.model: PreTrainedModel
        self.model, tokenizer = load_lm(folder)
        self.writer = Writer(tokenizer)
        self.parameters = sum(p.numel() for p in self.model.parameters())

    @torch.inference_mode()
    def speak(self, turns: Sequence[Turn]) -> list[tuple[str, int, int]]:
        """What the model says next in each dialogue, greedily; with the number of tokens read and written."""
        rows = [self.writer.before(turn) for turn in turns]
        width = max(map(len, rows))
        tokens = torch.full((len(rows), width), _PAD)
        for number, row in enumerate(rows):
            tokens[number, width - len(row) :] = torch.tensor(row)
        written = self._written(tokens, tokens != _PAD)
        said = []
        for row, more in zip(rows, written.tolist(), strict=True):
            own = more[: more.index(_END)] if _END in more else more
            said.append((self.writer.tokenizer.decode(own).strip(), len(row), len(own)))
        return said

    def _written(self, tokens: Tensor, known: Tensor) -> Tensor:
        """[dialogues, new] tokens, one greedy step for all at a time."""
        positions = (known.cumsum(1) - 1).clamp(min=0)
        out = self.model(
            tokens, attention_mask=known.long(), position_ids=positions, use_cache=True, logits_to_keep=1
        )
        ended = torch.zeros(len(tokens), dtype=torch.bool)
        new: list[Tensor] = []
        place = positions[:, -1:]
        for _ in range(LONGEST):
            chosen = out.logits[:, -1].argmax(-1).masked_fill(ended, _END)
            new.append(chosen)
            ended |= chosen == _END
            if bool(ended.all()):
                break
            known = torch.cat([known, torch.ones(len(tokens), 1, dtype=torch.bool)], 1)
            place = place + 1
            out = self.model(
                chosen[:, None], attention_mask=known.long(), position_ids=place,
                past_key_values=out.past_key_values, use_cache=True,
            )  # fmt: skip
        return torch.stack(new, 1)
