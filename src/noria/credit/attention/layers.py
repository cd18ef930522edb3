"""The layers of a model whose softmax attention can be read, and the choice among them."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from noria.core.errors import ConfigError, ModelError

__all__ = ["NAMED", "AttentionLayer", "attention_layers", "choose_layers", "decoder_of"]

NAMED = ("mid", "early", "late", "all")
INTERFACE = "ALL_ATTENTION_FUNCTIONS"


@dataclass(frozen=True)
class AttentionLayer:
    """A layer whose attention goes through transformers' attention interface.

    Attributes:
        index: number of the layer in its model.
        module: module that calls the interface.
        name: name of the module in the model.
        sliding: width of its window; None where it sees everything before it.
    """

    index: int
    module: nn.Module
    name: str
    sliding: int | None


def attention_layers(model: nn.Module) -> list[AttentionLayer]:
    """Every causal softmax-attention layer of a model's decoder that can be read, in order.

    Linear-attention layers of hybrid models, and the towers of a multimodal model, are not among them.

    Raises:
        ModelError: the model has no such layer.
    """
    stacks: dict[str, list[AttentionLayer]] = {}
    for name, module in model.named_modules():
        index = getattr(module, "layer_idx", None)
        causal = getattr(module, "is_causal", True)
        if isinstance(index, int) and causal and "cross" not in name and _calls_interface(type(module)):
            layer = AttentionLayer(index, module, name, _window(module))
            stacks.setdefault(_stack(name), []).append(layer)
    if not stacks:
        raise ModelError(
            "no layer of it has softmax attention that goes through transformers' attention interface",
            where=type(model).__name__,
            mend="give a decoder of transformers with softmax attention",
        )
    # A multimodal model has one stack of layers for each of its towers; text is the one that says so, or the deepest.
    named = [stack for stack in stacks if re.search(r"language_model|text_model|thinker", stack)]
    deepest = max(named or stacks, key=lambda stack: len(stacks[stack]))
    return sorted(stacks[deepest], key=lambda layer: layer.index)


def choose_layers(
    layers: Sequence[AttentionLayer],
    wanted: str | int | Sequence[int],
    *,
    depth: int,
    number: int = 5,
    sliding: bool | None = None,
) -> list[AttentionLayer]:
    """Choose layers by name, range or number.

    `mid` is `number` equally spaced layers from ⌊L/3⌋ to ⌊2L/3⌋ (arXiv 2510.13554, by the same authors; FlowTracer
    reads the middle layers, too); `early` and `late` are the thirds around them and `all` is every layer. "15-25" and
    [3, 7] name layers by number.

    Args:
        layers: layers that can be read, from :func:`attention_layers`.
        wanted: name, range or numbers.
        depth: L, the number of layers in the model, those without softmax attention included.
        number: most layers of a named third.
        sliding: whether a layer that sees only a window counts. None: only where no chosen layer sees everything.

    Raises:
        ConfigError: `wanted` is not a choice of layers.
        ModelError: no chosen layer has softmax attention, or one given by its number has none.
    """
    by_index = {layer.index: layer for layer in layers}
    if isinstance(wanted, str) and wanted in NAMED:
        low, high = depth // 3, 2 * depth // 3
        ends = {
            "mid": (low, high),
            "early": (0, low - 1),
            "late": (high + 1, depth - 1),
            "all": (0, depth - 1),
        }
        first, last = ends[wanted]
        inside = [layer for layer in layers if first <= layer.index <= last]
        whole = [layer for layer in inside if layer.sliding is None]
        candidates = inside if sliding or (sliding is None and not whole) else whole
        if not candidates:
            has = ", ".join(str(layer.index) for layer in layers)
            what = "full" if inside else "softmax"
            raise ModelError(
                f"no layer from {first} to {last} has {what} attention; those that have it are {has}",
                where=f"layers {wanted}",
                mend="name some of them",
            )
        count = len(candidates) if wanted == "all" else min(number, len(candidates))
        return [candidates[place] for place in _spread(len(candidates), count)]
    chosen = _numbers(wanted)
    for index in chosen:
        if not 0 <= index < depth:
            raise ModelError(f"there is no layer {index}", where="layers", mend=f"layers are 0 … {depth - 1}")
    missing = [index for index in chosen if index not in by_index]
    picked = [by_index[index] for index in chosen if index in by_index]
    explicit = not isinstance(wanted, str)
    if (missing and explicit) or not picked:
        has = ", ".join(str(index) for index in by_index)
        raise ModelError(
            f"layer {missing[0]} has no softmax attention; those that have it are {has}",
            where="layers",
            mend="name some of them",
        )
    return picked


def depth_of(model: nn.Module, layers: Sequence[AttentionLayer]) -> int:
    """Number of layers of the decoder."""
    config: Any = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    known = getattr(config, "num_hidden_layers", 0)
    return max(int(known), layers[-1].index + 1)


def decoder_of(model: nn.Module, layers: Sequence[AttentionLayer]) -> nn.Module:
    """The innermost module whose forward runs all of the layers once; one call of it is a pass of the model."""
    names = {id(module): name for name, module in model.named_modules()}
    stack = _stack(names[id(layers[0].module)])
    parts = stack.split(".") if stack else []
    while parts and isinstance(model.get_submodule(".".join(parts)), nn.ModuleList | nn.Sequential):
        parts.pop()
    return model.get_submodule(".".join(parts))


def interface_of(module: nn.Module) -> Any:
    """The table in which a module looks up its attention function."""
    return getattr(sys.modules[type(module).__module__], INTERFACE)


def _calls_interface(kind: type[nn.Module]) -> bool:
    forward = inspect.unwrap(kind.forward)
    code = getattr(forward, "__code__", None)
    return (
        code is not None and INTERFACE in code.co_names and hasattr(sys.modules[kind.__module__], INTERFACE)
    )


def _window(module: nn.Module) -> int | None:
    width = getattr(module, "sliding_window", None)
    if (
        getattr(module, "is_sliding", None) is False
        or getattr(module, "layer_type", None) == "full_attention"
    ):
        return None
    return int(width) if isinstance(width, int) and width > 0 else None


def _stack(name: str) -> str:
    """The name of the list that holds a layer: `model.layers` for `model.layers.3.self_attn`."""
    return re.sub(r"\.?\d+\.[^0-9]*$", "", name)


def _spread(number: int, count: int) -> list[int]:
    """Choose `count` of `number` places, equally spaced, both ends included."""
    if count == 1:
        return [number // 2]
    return sorted({round(step * (number - 1) / (count - 1)) for step in range(count)})


def _numbers(wanted: str | int | Sequence[int]) -> list[int]:
    if isinstance(wanted, int):
        chosen = [wanted]
    elif not isinstance(wanted, str):
        chosen = list(wanted)
    elif match := re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", wanted):
        chosen = list(range(int(match[1]), int(match[2]) + 1))
    elif re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", wanted):
        chosen = [int(part) for part in wanted.split(",")]
    else:
        chosen = []
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"{wanted!r} names no layers",
            where="layers",
            mend=f'give one of {", ".join(NAMED)}, "15-25", or numbers',
        )
    return chosen
