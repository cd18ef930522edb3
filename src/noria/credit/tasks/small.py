"""The two small models that ship with the package and reason in steps.

`reasoner` answers chains and two families of reasoning-gym. `start` is where reinforcement learning begins: the
reasoner, trained for a while on solutions in which one step of five is wrong, so that it can do every step and often
draws another. Both are plain Llama configurations; `noria.credit.proof.reasoner` trains them again.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from noria.core.models.lm import load_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["SHIPPED", "small_folder", "small_model"]

SmallName = Literal["reasoner", "start"]
SHIPPED: dict[str, SmallName] = {"small": "reasoner", "small-start": "start"}
"""Models that ship, by the names that a user gives."""


def small_folder(name: SmallName) -> Path:
    """Folder of a model that ships."""
    return Path(str(files("noria.credit"))) / "assets" / name


def small_model(name: SmallName = "reasoner") -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model that ships, and the tokenizer that both share."""
    model, tokenizer = load_lm(small_folder(name))
    tokenizer.padding_side = "left"
    return model, tokenizer
