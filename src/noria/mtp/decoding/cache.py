"""A key-value cache whose rows have lengths of their own, so that a batch may accept drafts row by row.

Keys live where their token stands: slot j of a row holds position j. A verification writes γ + 1 positions; what was
rejected is not erased but lies beyond the row's length, where the mask hides it until the next write covers it.
Rolling back is therefore a change of lengths alone.

Which keys a token sees is the model's own affair: transformers builds the masks of each of its layers, full, sliding or
in chunks, from the offset of the queries, and here that offset is one for each row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionMaskInterface, Cache, PreTrainedConfig
from transformers.masking_utils import causal_mask_function, eager_mask, sdpa_mask

from noria.core.errors import ModelError

SPARE = 128
"""Slots beyond those that are written at first."""


ATTENTIONS = ("eager", "sdpa")
"""Implementations of attention whose masks may differ from row to row."""
KINDS = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention")
"""Kinds of layers whose state can be taken back to any token of the last pass."""


def attention_kinds(config: PreTrainedConfig) -> list[str]:
    """The kind of each layer, one of `KINDS`.

    Raises:
        ModelError: some layer is of another kind, whose state cannot be taken back.
    """
    text = config.get_text_config()
    kinds = list(getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers)
    if other := sorted(set(kinds) - set(KINDS)):
        raise ModelError(
            f"layers of kind {', '.join(other)} keep a state that a rejected draft would spoil",
            where=type(config).__name__,
            mend="decode this model without drafts, in transformers",
        )
    return kinds


class RaggedCache(Cache):  # type: ignore[misc]
    """Keys and values [rows, heads, slots, dim] a layer, written at positions given for each row.

    There are as many slots as positions were written, and some to spare: what a batch may grow to is often far more.

    Use: :meth:`place` the positions of the next call, call the model with them and this cache, then set `lengths` to
    what stays.

    Args:
        rows: batch size.
        capacity: the greatest position that may be written, plus one; nothing is held for it.
        device: device of the keys.
    """

    def __init__(self, rows: int, capacity: int, *, device: Any = None) -> None:
        super().__init__(layers=[])
        self.rows, self.capacity = rows, capacity
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._positions = torch.zeros(rows, 0, dtype=torch.long, device=device)
        self._seen = 0
        self._together: int | None = None

    def place(self, positions: Tensor) -> None:
        """Where the next call writes: positions [rows, n], each row rising by one."""
        self._positions = positions
        last = int(positions.max()) + 1
        if last > self.capacity:
            raise ValueError(f"position {last - 1} does not fit a cache of {self.capacity}")
        self._seen = last
        first = int(positions[0, 0])
        same = self.rows == 1 or bool((positions == positions[:1]).all())
        self._together = first if same else None

    def get_query_offset(self, layer_idx: int = 0) -> Any:
        """The place of each row's first query [rows], from which transformers builds the masks of its layers."""
        return self._positions[:, 0]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Number of keys that a pass reads, and the place of the first."""
        return self._seen, 0

    def visible(self) -> Tensor:
        """Which keys full attention sees at the positions placed [rows, 1, n, keys]: each token those up to itself."""
        keys = torch.arange(self._seen, device=self._positions.device)
        return keys <= self._positions[:, None, :, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values [rows, heads, n, dim] at the positions placed; return all up to the last one."""
        keys = self._keys[layer_idx] = self._roomy(self._keys.get(layer_idx), key_states)
        values = self._values[layer_idx] = self._roomy(self._values.get(layer_idx), value_states)
        if self._together is not None:
            end = self._together + key_states.shape[2]
            keys[:, :, self._together : end] = key_states
            values[:, :, self._together : end] = value_states
        else:
            row = torch.arange(self.rows, device=keys.device)[:, None]
            keys[row, :, self._positions] = key_states.transpose(1, 2)
            values[row, :, self._positions] = value_states.transpose(1, 2)
        return keys[:, :, : self._seen], values[:, :, : self._seen]

    def _roomy(self, held: Tensor | None, like: Tensor) -> Tensor:
        """Keys or values with room for the positions placed."""
        slots = 0 if held is None else held.shape[2]
        if held is not None and slots >= self._seen:
            return held
        size = min(self.capacity, max(self._seen + SPARE, 2 * slots))
        grown = like.new_zeros(self.rows, like.shape[1], size, like.shape[-1])
        if held is not None:
            grown[:, :, :slots] = held
        return grown

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The longest row."""
        return int(self.lengths.max()) if self.rows else 0

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only, in this order: finished requests leave the batch."""
        self._keys = {layer: keys[rows] for layer, keys in self._keys.items()}
        self._values = {layer: values[rows] for layer, values in self._values.items()}
        self.lengths = self.lengths[rows]
        self.rows = len(rows)


def _row_by_row(build: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """A mask builder of transformers that also takes an offset [rows] of the queries, one for each row."""

    @functools.wraps(build)
    def built(*args: Any, **options: Any) -> Tensor | None:
        offset = options.get("q_offset")
        if not isinstance(offset, Tensor) or not offset.ndim:
            return build(*args, **options)
        law = options["mask_function"]
        if law is causal_mask_function and options["q_length"] == len(offset) == 1:
            return None  # one token sees all

        def shifted(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen: Tensor = law(row, head, query + offset[row], key)
            return seen

        return build(
            *args, **options | {"q_offset": 0, "mask_function": shifted, "allow_is_causal_skip": False}
        )

    return built


for _name, _build in zip(ATTENTIONS, (eager_mask, sdpa_mask), strict=True):
    AttentionMaskInterface.register(_name, _row_by_row(_build))
