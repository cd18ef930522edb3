"""What a head and a decoder need of a Hugging Face model: its states, and that its law is what they take it for.

No list of families can be complete, so a model is tried once: values are planted where its logits are made, and a few
tokens are run in the ways that training and decoding run it. What does not come out as in the model's own forward pass
is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import DataError, ModelError, NoriaError
from noria.mtp.data import Rows
from noria.mtp.heads.recurrent import documents, documents_apart, linear_layers

GROWING = ("dynamic", "longrope")
"""Types of rotary positions that change for a whole batch with the greatest position in it."""
ROUND_OFF, COARSE = 1e-4, 0.5
"""Greatest relative distance of states that round-off explains, in 32 bits and in fewer, where experts may be chosen
otherwise."""
_fit: dict[str, weakref.WeakSet[Any]] = {}
_packs: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def decoder_of(model: Any) -> Any:
    """The part of a causal language model that makes states of tokens."""
    decoder = model.get_decoder()
    return model.model if decoder is model and hasattr(model, "model") else decoder


def once(name: str, model: Any, check: Callable[[], None]) -> None:
    """Make a check of a model, unless it has passed before."""
    passed = _fit.setdefault(name, weakref.WeakSet())
    if model not in passed:
        check()
        passed.add(model)


def most_positions(config: Any) -> int | None:
    """Largest number of positions of a sequence, such that its law is the model's whatever else is in the batch.

    With rotary positions that grow with the longest sequence, those that the model was first trained on.
    """
    text = config.get_text_config()
    limits = [getattr(text, "max_position_embeddings", None), _first_positions(text)]
    known = [limit for limit in limits if limit]
    return min(known) if known else None


def _first_positions(text: Any) -> int | None:
    """The positions that growing rotary positions were first trained on; None where none grow."""
    rope = getattr(text, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    first = [
        int(part.get("original_max_position_embeddings") or text.max_position_embeddings)
        for part in parts
        if part.get("rope_type") in GROWING
    ]
    return min(first, default=None)


@torch.no_grad()
def check_output_layer(model: Any) -> None:
    """Whether the output layer alone makes logits of the last states: some models scale or cap on the way.

    Values of a wide range are planted behind the decoder and behind the output layer, so that it does not matter what
    the weights are.

    Raises:
        ModelError: it does not, or there is none.
    """
    output = model.get_output_embeddings()
    if output is None:
        raise ModelError("no output layer", where=type(model).__name__, mend="give a causal language model")
    what = "its logits are not those of its output layer (scaled or capped on the way)"
    mend = "decode this model without drafts, in transformers"
    once("output", model, lambda: refuse_unless(lambda: _plain(model, output), model, what, mend))


def _plain(model: Any, output: Any) -> bool:
    generator = torch.Generator().manual_seed(0)
    read: list[Tensor] = []
    planted: list[Tensor] = []

    def plant(like: Tensor, spread: float) -> Tensor:
        planted.append((torch.randn(like.shape, generator=generator) * spread).to(like))
        return planted[-1]

    def states(_module: Any, _inputs: Any, out: Any) -> Any:
        out.last_hidden_state = plant(out.last_hidden_state, 1.0)
        return out

    def logits(_module: Any, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        read.append(inputs[0])
        return plant(out, 1e3)

    hooks = [decoder_of(model).register_forward_hook(states), output.register_forward_hook(logits)]
    try:
        read.append(model(input_ids=trial_tokens(model, 2)[None], use_cache=False).logits)
    finally:
        for hook in hooks:
            hook.remove()
    return len(read) == len(planted) == 2 and all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-2)
        for a, b in zip(read, planted, strict=True)
    )


@torch.no_grad()
def backbone_states(backbone: Any, rows: Rows) -> Tensor:
    """The backbone's states after its final norm [rows, n, width], documents apart.

    Raises:
        DataError: a document is longer than the positions that do not depend on the rest of the batch.
    """
    base = decoder_of(backbone)
    first = _first_positions(base.config.get_text_config())
    if first is not None and int(rows.positions.max()) >= first:
        raise DataError(
            f"a document of more than {first} tokens, from where the model's rotary positions depend on the batch",
            where=type(backbone).__name__,
            mend=f"take rows of at most {first} tokens",
        )
    if not bool((rows.segments[:, 1:] != rows.segments[:, :-1]).any()):
        alone: Tensor = base(input_ids=rows.tokens, use_cache=False).last_hidden_state
        return alone
    if backbone not in _packs:
        _packs[backbone] = _tells_apart(base, trial_tokens(backbone, 7))
    return _packed(base, rows) if _packs[backbone] else _apart(base, rows)


def _packed(base: Any, rows: Rows) -> Tensor:
    """Whole rows at once: attention tells documents apart by their positions."""
    kinds = getattr(base.config.get_text_config(), "layer_types", None) or []
    with documents_apart(linear_layers(base, kinds), rows.segments):
        states: Tensor = base(
            input_ids=rows.tokens, position_ids=rows.positions, use_cache=False
        ).last_hidden_state
    return states


def _apart(base: Any, rows: Rows) -> Tensor:
    """Each document in a row of its own, which takes longer."""
    states: Tensor | None = None
    for row, column, real in documents(rows.segments):
        own = base(input_ids=rows.tokens[row, column], use_cache=False).last_hidden_state
        if states is None:
            states = own.new_zeros(*rows.tokens.shape, own.shape[-1])
        states[row.expand_as(column)[real], column[real]] = own[real]
    assert states is not None
    return states


def _tells_apart(base: Any, tokens: Tensor) -> bool:
    """Whether two documents in a row have the states that each has alone; some models mask by no positions."""
    rows = Rows.of(tokens[None], segments=torch.tensor([[0, 0, 0, 0, 1, 1, 1]], device=tokens.device))
    return close(_packed(base, rows)[0], _apart(base, rows)[0])


def refuse_unless(check: Callable[[], bool], model: Any, what: str, mend: str) -> None:
    """Raise a `ModelError` where a trial of a model has another outcome, or does not run at all."""
    training = model.training
    model.eval()  # dropout would part the two
    try:
        passed, cause = check(), None
    except NoriaError:
        raise
    except Exception as error:  # models raise whatever they like
        passed, cause = False, error
    finally:
        model.train(training)
    if not passed:
        if cause is not None:
            words = " ".join(str(cause).split())[:120]
            what = f"a trial of a few tokens does not run in it ({type(cause).__name__}: {words})"
        raise ModelError(what, where=type(model).__name__, mend=mend) from cause


def close(found: Tensor, wanted: Tensor) -> bool:
    """Whether states [n, width] are the same but for round-off."""
    distance = (found.float() - wanted.float()).norm(dim=-1)
    # Under autocast the last norm gives float32, while the products before it were rounded to 16 bits.
    rounded = (
        torch.is_autocast_enabled(wanted.device.type) or torch.get_float32_matmul_precision() != "highest"
    )
    exact = wanted.dtype.itemsize >= 4 and not rounded
    limit = ROUND_OFF if exact else COARSE
    return not bool((distance > limit * wanted.float().norm(dim=-1)).any())


def trial_tokens(model: Any, count: int) -> Tensor:
    """Token numbers [count], the same whenever the vocabulary is."""
    vocab = model.get_output_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    return torch.randint(1, max(2, vocab), (count,), generator=generator).to(device)
