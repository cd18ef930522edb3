"""A pass of a model over traces: the arguments of its forward, and the mode it runs in."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from noria.core.errors import ConfigError
from noria.credit.responses.traces import Traces

__all__ = ["evaluating", "inputs_of", "one_logit"]


def inputs_of(traces: Traces) -> dict[str, Any]:
    """Keyword arguments of a model's forward over a batch.

    Raises:
        ConfigError: sequences are packed and the traces have no positions.
    """
    if traces.number != len(traces.tokens):
        if traces.positions is None:
            raise ConfigError(
                "packed sequences are told apart by their positions", where="positions", mend="give them"
            )
        return {"input_ids": traces.tokens, "position_ids": traces.positions, "use_cache": False}
    return {
        "input_ids": traces.tokens,
        "attention_mask": traces.valid.long(),
        "position_ids": traces.places,
        "use_cache": False,
    }


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and restore the model's mode afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def one_logit(model: Any) -> dict[str, int]:
    """The argument that makes a model compute logits of one token only, where its forward has it."""
    inner = model
    while not hasattr(inner, "get_output_embeddings") and hasattr(inner, "module"):
        inner = inner.module
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    accepts = "logits_to_keep" in inspect.signature(inner.forward).parameters
    return {"logits_to_keep": 1} if accepts else {}
