"""Reading attention while a model runs, at about the price of its own fast attention.

Fast kernels never hold the attention matrix, and asking for it (`output_attentions`) makes every layer slow and keeps
[layers, heads, tokens, tokens]. A tap stands in front of the attention function that the model already uses, through
transformers' `AttentionInterface`: the output is that function's own, and in the chosen layers the weights are computed
a second time from queries and keys, a block of rows at a time, and handed to readers
(:mod:`noria.credit.attention.readers`). A reader keeps what it needs, such as the mean over heads and layers; all heads
of all rows are never in memory at once.

The model's outputs, its gradients and its configuration do not change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from noria.core.errors import ModelError
from noria.credit.attention.layers import AttentionLayer, decoder_of, interface_of

__all__ = ["AttentionCall", "AttentionTap", "Reader"]

BLOCK_BYTES = {"cpu": 1 << 20}  # on a CPU a block stays in its cache; elsewhere it fills the device
DEFAULT_BLOCK = 1 << 28


class Reader(Protocol):
    """An object that is made for each pass of the model and is shown the chosen layers, one after the other."""

    def read(self, layer: int, call: AttentionCall) -> None:
        """Read a layer's attention."""

    def result(self) -> Any:
        """The result of the pass; called once, after its last layer."""


@dataclass(frozen=True)
class AttentionCall:
    """One call of an attention function: everything its weights are made of.

    Attributes:
        query: [batch, heads, tokens, width].
        key: [batch, key-value heads, tokens, width].
        value: [batch, key-value heads, tokens, width].
        scaling: factor of the scores.
        mask: mask that the function was given: None (causal), [batch, tokens] of padding, or [batch, 1, tokens, tokens]
            of truth values or of numbers added to scores.
        softcap: c of c tanh(scores / c), where the model has it.
        sinks: [heads] logits of a key that belongs to no token, where the model has them.
        window: number of tokens back that a token sees, itself included.
        segments: [batch, tokens] numbers of packed sequences, where only positions tell them apart.
        module: module that made the call.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    mask: Tensor | None
    softcap: float | None
    sinks: Tensor | None
    window: int | None
    segments: Tensor | None
    module: nn.Module

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sizes of the call: (batch, heads, tokens)."""
        batch, heads, tokens, _ = self.query.shape
        return batch, heads, tokens

    def blocks(self) -> Iterator[tuple[slice, int, int]]:
        """Parts of the call whose weights fit a block: rows of the batch, first token, behind the last token."""
        batch, heads, tokens = self.shape
        size = BLOCK_BYTES.get(self.query.device.type, DEFAULT_BLOCK)
        most = max(1, size // (4 * heads * 16 * tokens))
        for first in range(0, batch, most):
            count = min(most, batch - first)
            height = max(16, min(tokens, size // (4 * heads * tokens * count)))
            for start in range(0, tokens, height):
                yield slice(first, first + count), start, min(start + height, tokens)

    def weights(self, start: int, stop: int, rows: slice = slice(None)) -> Tensor:
        """Attention of the tokens start … stop − 1 on 0 … stop − 1.

        Args:
            start: first token.
            stop: token behind the last.
            rows: rows of the batch.

        Returns:
            [batch, heads, stop − start, stop] in fp32; zero where the mask closes a row.
        """
        query, key = self.query[rows, :, start:stop], self.key[rows, :, :stop]
        batch, heads, count, width = query.shape
        groups = key.shape[1]
        # Heads of one group are more rows of the same product: keys are not repeated.
        grouped = (query * self.scaling).reshape(batch, groups, heads // groups * count, width)
        scores = torch.matmul(grouped, key.mT).view(batch, heads, count, stop)
        scores = scores.float() if scores.dtype != torch.float32 else scores
        if self.softcap is not None:
            scores = (scores / self.softcap).tanh_().mul_(self.softcap)
        allowed = self._allowed(start, stop, rows)
        if allowed is None:
            corner = torch.ones(count, count, dtype=torch.bool, device=scores.device).triu_(1)
            scores[..., start:].masked_fill_(corner, -torch.inf)
        elif allowed.dtype == torch.bool:
            scores.masked_fill_(~allowed, -torch.inf)
        else:
            scores += allowed
        if self.sinks is None:
            probabilities = torch.softmax(scores, -1, out=scores)
        else:
            sinks = self.sinks.float().view(1, -1, 1, 1).expand(batch, -1, count, 1)
            total = torch.logaddexp(torch.logsumexp(scores, -1, keepdim=True), sinks)
            probabilities = scores.sub_(total).exp_()
        if allowed is not None:
            # A row of padding may attend to nothing (NaN), or, where the mask is a large number, to everything alike.
            closed = ~allowed.any(-1, keepdim=True) if allowed.dtype == torch.bool else _closed(allowed)
            probabilities.masked_fill_(closed, 0.0)
        return probabilities

    def _allowed(self, start: int, stop: int, rows: slice) -> Tensor | None:
        """The mask of a block: truth values, numbers to add, or None where it is only causal."""
        mask = self.mask
        if mask is not None and mask.ndim == 4:
            return mask[rows if len(mask) > 1 else slice(None), :, start:stop, :stop]
        window = self.window if self.window is not None and self.window < stop else None
        if mask is None and window is None and self.segments is None:
            return None
        places = torch.arange(stop, device=self.query.device)
        back = places[start:, None] - places
        allowed = back >= 0
        if window is not None:
            allowed &= back < window
        allowed = allowed[None, None]
        if mask is not None:
            allowed = allowed & mask[rows, None, None, :stop].bool()
        if self.segments is not None:
            part = self.segments[rows]
            allowed = allowed & (part[:, None, start:stop, None] == part[:, None, None, :stop])
        return allowed

    def value_norms(self) -> Tensor:
        """‖v W_O‖ of every head's value as it is written into the residual stream, [batch, heads, tokens].

        Raises:
            ModelError: the module's output projection is not known.
        """
        names = ("o_proj", "out_proj", "dense", "c_proj", "wo")
        projection = next((getattr(self.module, n) for n in names if hasattr(self.module, n)), None)
        heads = self.shape[1]
        value = self.value.repeat_interleave(heads // self.value.shape[1], 1).float()
        weight = getattr(projection, "weight", None)
        if weight is None or weight.shape[1] != heads * value.shape[-1]:
            raise ModelError(
                "its output projection is not known, so values cannot be weighed",
                where=type(self.module).__name__,
                mend="set values=false",
            )
        by_head = weight.float().view(weight.shape[0], heads, -1)
        gram = torch.einsum("dhi,dhj->hij", by_head, by_head)
        return torch.einsum("bhti,hij,bhtj->bht", value, gram, value).clamp(min=0).sqrt()


class AttentionTap:
    """A context that reads the attention of every pass of a model.

    ```python
    with AttentionTap(model, layers, {"attention": HeadMean}) as tap:
        model(input_ids, attention_mask=mask, use_cache=False)
    tap.passes[-1]["attention"]  # [batch, tokens, tokens]
    ```

    Each forward of the decoder is one entry of `passes`, whoever calls it and however the model is wrapped; the
    recomputation of gradient checkpointing in the backward pass is not read again.

    Args:
        model: any model of transformers, wrapped or not.
        layers: layers to read.
        readers: makers of the readers of a pass, by name.
        on_pass: called with the results after each pass, which are then not kept in `passes`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[AttentionLayer],
        readers: Mapping[str, Callable[[], Reader]],
        *,
        on_pass: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.model, self.layers, self.readers, self.on_pass = model, list(layers), dict(readers), on_pass
        self.passes: list[dict[str, Any]] = []
        self._open: dict[str, Reader] | None = None
        self._seen: set[int] = set()
        self.packed: Tensor | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> AttentionTap:
        for layer in self.layers:
            if layer.module in _ACTIVE:
                self._leave()
                raise ModelError("it is being read already", where=f"layer {layer.index}")
            _install(layer.module)
            _ACTIVE[layer.module] = self
        decoder = decoder_of(self.model, self.layers)
        self._hooks = [
            decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            decoder.register_forward_hook(self._end, always_call=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for layer in self.layers:
            if _ACTIVE.get(layer.module) is self:
                del _ACTIVE[layer.module]
                _uninstall(layer.module)
        self._open = None

    def _begin(self, decoder: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        self._open = {name: make() for name, make in self.readers.items()}
        self._seen.clear()
        self.packed = _packed(options.get("position_ids"))

    def _end(self, decoder: nn.Module, arguments: Any, output: Any) -> None:
        readers, self._open = self._open, None
        if readers is None or output is None:  # the pass failed: its own error is what counts
            return
        if len(self._seen) < len(self.layers):
            missed = sorted(layer.index for layer in self.layers if layer.index not in self._seen)
            raise ModelError(
                f"layer {missed[0]} did not run its attention",
                where=type(self.model).__name__,
                mend="choose other layers",
            )
        results = {name: reader.result() for name, reader in readers.items()}
        if self.on_pass is None:
            self.passes.append(results)
        else:
            self.on_pass(results)

    def record(self, call: AttentionCall) -> None:
        """Show a layer's call to the readers while a pass is open; recomputation in the backward pass is not shown."""
        index = call.module.layer_idx
        if self._open is None:
            return
        if call.key.shape[2] != call.query.shape[2]:
            raise ModelError(
                f"{call.query.shape[2]} queries meet {call.key.shape[2]} keys: a pass is read whole, without a cache",
                where=f"layer {index}",
                mend="call the model on the whole sequence, with use_cache=False",
            )
        self._seen.add(int(index))  # type: ignore[arg-type]
        for reader in self._open.values():
            reader.read(int(index), call)  # type: ignore[arg-type]


# -- in front of the attention functions ------------------------------------------------------------------------------

_ACTIVE: WeakKeyDictionary[nn.Module, AttentionTap] = WeakKeyDictionary()
_INSTALLED: dict[tuple[int, str], tuple[int, Any]] = {}


def _install(module: nn.Module) -> None:
    """Replace the function that `module` uses by a tapped one; modules without a tap pass through it."""
    table, name = interface_of(module), _implementation(module)
    users, before = _INSTALLED.get((id(table), name), (0, None))
    if users == 0:
        before = table._local_mapping.get(name)
        table[name] = _TappedFunction(table._global_mapping.get(name) if before is None else before)
    _INSTALLED[id(table), name] = (users + 1, before)


def _uninstall(module: nn.Module) -> None:
    table, name = interface_of(module), _implementation(module)
    users, before = _INSTALLED.pop((id(table), name))
    if users > 1:
        _INSTALLED[id(table), name] = (users - 1, before)
    elif before is None:
        del table[name]
    else:
        table[name] = before


def _implementation(module: nn.Module) -> str:
    config: Any = module.config
    return str(config._attn_implementation or "eager")


class _TappedFunction:
    """An attention function that shows its calls to the tap of the calling module, if there is one."""

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self.function = function

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        **options: Any,
    ) -> Any:
        # "eager" is no entry of the table: every model brings its own.
        function = self.function or sys.modules[type(module).__module__].eager_attention_forward
        tap = _ACTIVE.get(module)
        if tap is not None:
            _record(tap, module, query, key, value, attention_mask, options)
        return function(module, query, key, value, attention_mask, **options)


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def _record(
    tap: AttentionTap,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    options: Mapping[str, Any],
) -> None:
    if mask is not None and not isinstance(mask, Tensor):
        raise ModelError(
            f"a mask of type {type(mask).__name__} cannot be read",
            where=type(module).__name__,
            mend='set attn_implementation="sdpa"',
        )
    scaling = options.get("scaling")
    sinks = options.get("s_aux")
    tap.record(
        AttentionCall(
            query=query.detach(),
            key=key.detach(),
            value=value.detach(),
            scaling=float(query.shape[-1] ** -0.5 if scaling is None else scaling),
            mask=mask,
            softcap=options.get("softcap"),
            sinks=None if sinks is None else sinks.detach(),
            window=options.get("sliding_window"),
            segments=_segments(query, options, tap.packed) if mask is None else None,
            module=module,
        )
    )


def _packed(positions: Any) -> Tensor | None:
    """Numbers of packed sequences, [batch, tokens], where positions restart; None where they do not."""
    if not isinstance(positions, Tensor) or positions.ndim < 2 or positions.shape[-1] < 2:
        return None
    positions = positions if positions.ndim == 2 else positions[0]  # one of the axes of multimodal positions
    starts = positions[:, 1:] != positions[:, :-1] + 1
    if not starts.any():
        return None
    return torch.nn.functional.pad(starts.long().cumsum(1), (1, 0))


def _segments(query: Tensor, options: Mapping[str, Any], packed: Tensor | None) -> Tensor | None:
    """Numbers of sequences where the kernel gets no mask but their lengths, or positions that restart."""
    lengths = options.get("cu_seq_lens_q", options.get("cu_seqlens"))
    if lengths is None:
        return packed
    places = torch.arange(query.shape[2], device=query.device)
    return torch.bucketize(places, lengths[1:].to(places), right=True)[None].expand(len(query), -1)


def _closed(added: Tensor) -> Tensor:
    """Rows in which an additive mask allows no token."""
    return added.amax(-1, keepdim=True) <= torch.finfo(added.dtype).min / 2
