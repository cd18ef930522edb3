"""The states of linear-attention layers (Qwen3-Next, Qwen3.5), which can go back to any token of the last pass.

A recurrent state holds all tokens it has seen: a rejected draft cannot be hidden from it afterwards, as it can from
attention. So these layers take the tokens of a verification one at a time and remember the state behind each; when the
verdict is known every row resumes from the state behind its last token that was kept. All else in the model runs on the
whole pass at once. Prompts are taken at once, too, those of one length together, so that no row sees padding.

For the same reason position numbers do not keep packed documents apart here, as they do in attention: over packed rows
these layers take each document by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import ModelError


def linear_layers(base: Any, kinds: Sequence[str]) -> list[nn.Module]:
    """The linear-attention modules of a decoder, in order of its layers.

    Raises:
        ModelError: a layer of that kind is built otherwise.
    """
    modules: list[nn.Module] = []
    if "linear_attention" not in kinds:
        return modules
    for kind, layer in zip(kinds, base.layers, strict=True):
        if kind == "linear_attention":
            module = getattr(layer, "linear_attn", None)
            if module is None:
                raise ModelError(
                    "its linear-attention layers are of an unknown build",
                    where=type(base).__name__,
                    mend="decode this model without drafts, in transformers",
                )
            modules.append(module)
    return modules


@contextlib.contextmanager
def documents_apart(modules: Sequence[nn.Module], segments: Tensor) -> Iterator[None]:
    """Within, the modules take each document of packed rows by itself, so that none sees what another left behind.

    Args:
        modules: the linear-attention modules.
        segments: number of each token's document [rows, n], negative for padding, which is not computed.
    """
    groups = documents(segments)

    def apart(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
            out = torch.zeros_like(hidden_states)
            for row, column, real in groups:
                output = original(hidden_states=hidden_states[row, column], attention_mask=None)
                out[row.expand_as(column)[real], column[real]] = output[real]
            return out

        return forward

    with _replaced(modules, [apart(module.forward) for module in modules]):
        yield


def documents(segments: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Documents in groups that are no larger than the rows: their row [documents, 1], columns and which are theirs.

    What fills a group's shorter documents up stands behind them, where nothing of theirs sees it.
    """
    n = segments.shape[1]
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    row, start = (starts & (segments >= 0)).nonzero(as_tuple=True)
    bounds = starts.nonzero()[:, 1]
    ends = torch.cat([bounds[1:], bounds[:1]])
    ends = ends.where(ends > 0, n)[(segments >= 0)[starts]]
    order = (ends - start).argsort(descending=True, stable=True)
    groups = []
    while len(order):
        longest = int((ends - start)[order[0]])
        here, order = order.tensor_split([max(1, segments.numel() // longest)])
        column = start[here][:, None] + torch.arange(longest, device=segments.device)
        groups.append((row[here][:, None], column.clamp(max=n - 1), column < ends[here][:, None]))
    return groups


@contextlib.contextmanager
def _replaced(modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Tensor]]) -> Iterator[None]:
    """The modules with other forwards, and afterwards as they were."""
    try:
        for module, forward in zip(modules, forwards, strict=True):
            module.forward = forward
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)  # the class's own again


class _States:
    """A layer's convolution and recurrent state, as its module asks its cache for them."""

    def __init__(self) -> None:
        self.conv: Tensor | None = None
        self.recurrent: Tensor | None = None

    def get_conv_state(self, *_: Any, **__: Any) -> Tensor | None:
        return self.conv

    def get_recurrent_state(self, *_: Any, **__: Any) -> Tensor | None:
        return self.recurrent

    def is_recording_past(self, *_: Any) -> bool:
        return False

    def update_conv_state(
        self, inputs: Tensor, *_: Any, conv_kernel_size: int | None = None, **__: Any
    ) -> Tensor:
        """Add inputs [rows, channels, n]; all that the convolution reads."""
        width = conv_kernel_size or inputs.shape[-1]
        if self.conv is None:
            whole = nn.functional.pad(inputs, (max(0, width - inputs.shape[-1]), 0))
        else:
            whole = torch.cat([self.conv, inputs], dim=-1)
        self.conv = whole[..., -width:].clone()
        return whole

    def update_recurrent_state(self, state: Tensor, *_: Any, **__: Any) -> Tensor:
        self.recurrent = state
        return state


class RecurrentStates:
    """States of all linear-attention layers of a batch.

    Use: the model's call inside :meth:`attached`, then :meth:`settle` with how many tokens of the pass each row keeps.

    Args:
        modules: the linear-attention modules.
        rows: batch size.
    """

    def __init__(self, modules: Sequence[nn.Module], rows: int) -> None:
        self.modules, self.rows = list(modules), rows
        self._behind: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.modules]
        """States of each layer behind each token of the last pass."""
        self._counts: Tensor | None = None

    @contextlib.contextmanager
    def attached(self, counts: Tensor) -> Iterator[None]:
        """The modules keep their states here.

        Args:
            counts: real tokens of each row in this pass [rows]; only a prompt may have padding behind them.
        """
        forwards = [self._forward(n, module.forward, counts) for n, module in enumerate(self.modules)]
        with _replaced(self.modules, forwards):
            yield

    def settle(self, counts: Tensor) -> None:
        """Continue every row from the state behind its first `counts` [rows] tokens of the last pass, at least one."""
        index = counts.clamp(min=1) - 1
        row = torch.arange(self.rows, device=counts.device)
        for number, behind in enumerate(self._behind):
            conv = torch.stack([c for c, _ in behind])[index, row]
            recurrent = torch.stack([r for _, r in behind])[index, row]
            self._behind[number] = [(conv, recurrent)]

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self._behind = [[(c[rows], r[rows]) for c, r in behind] for behind in self._behind]
        self.rows = len(rows)

    def _forward(self, number: int, original: Callable[..., Tensor], counts: Tensor) -> Callable[..., Tensor]:
        def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
            if not self._behind[number]:
                return self._prompt(number, original, hidden_states, counts)
            states = _States()
            states.conv, states.recurrent = (t.clone() for t in self._behind[number][-1])
            behind, outputs = [], []
            for token in hidden_states.split(1, dim=1):  # type: ignore[no-untyped-call]
                outputs.append(original(hidden_states=token, cache_params=states, attention_mask=None))
                assert states.conv is not None
                assert states.recurrent is not None
                behind.append((states.conv.clone(), states.recurrent.clone()))
            self._behind[number] = behind
            return torch.cat(outputs, dim=1)

        return forward

    def _prompt(self, number: int, original: Callable[..., Tensor], hidden: Tensor, counts: Tensor) -> Tensor:
        out = torch.zeros_like(hidden)
        kept: tuple[Tensor, Tensor] | None = None
        for length in sorted(set(counts.tolist())):
            rows = (counts == length).nonzero()[:, 0]
            states = _States()
            out[rows, :length] = original(
                hidden_states=hidden[rows, :length], cache_params=states, attention_mask=None
            )
            assert states.conv is not None
            assert states.recurrent is not None
            if kept is None:
                kept = tuple(  # type: ignore[assignment]
                    t.new_zeros(self.rows, *t.shape[1:]) for t in (states.conv, states.recurrent)
                )
            assert kept is not None
            kept[0][rows], kept[1][rows] = states.conv, states.recurrent
        assert kept is not None
        self._behind[number] = [kept]
        return out
