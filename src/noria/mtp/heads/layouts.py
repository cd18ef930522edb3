"""Vendors' layouts of multi-token-prediction heads: what is computed, and what its tensors are called.

A head's step joins a token's embedding with a hidden state, runs one decoder layer over them, and hands its result to
the model's own LM head and to the next step. Vendors agree on that and on little else. A head computed by another
vendor's convention loads without complaint and drafts tokens that are hardly ever accepted.

| layout | joins | next step takes | first embedding | shared by its layers |
| --- | --- | --- | --- | --- |
| `qwen` (Qwen3-Next, Qwen3.5) | embedding, state | the normed state | kept | norms and projection |
| `deepseek` (DeepSeek-V3, GLM-4.5) | embedding, state | the state before the norm | zeroed | nothing |
| `mimo` (MiMo) | state, embedding | the normed state | zeroed | nothing |

The first step's state is the backbone's last one, after its final norm, as serving engines have it. Where vendor and
papers differ, the engines are followed, since it is they that serve a head: vLLM and SGLang zero MiMo's first
embedding, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from noria.core.errors import ConfigError
from noria.mtp.types import LayoutName

Part = Literal["embedding_norm", "hidden_norm", "projection", "final_norm"]
PARTS: tuple[Part, ...] = ("embedding_norm", "hidden_norm", "projection", "final_norm")


@dataclass(frozen=True)
class Layout:
    """One vendor's convention. In names, `{i}` is the layer of the head from 0, `{n}` its place in the whole stack.

    Attributes:
        name: name of the layout.
        names: tensor name of each part.
        block: prefix of the decoder layer's tensors.
        count: key of the model's configuration that holds the number of layers.
        embedding_first: the projection reads [embedding; state], not [state; embedding].
        normed: the next step takes the state after the final norm.
        zero_first: the embedding beside the state of position 0 is zero.
        shared: all layers share norms and projection.
        copies: tensors of the backbone that the vendor's files repeat in each layer of the head, and what they copy.
    """

    name: LayoutName
    names: Mapping[Part, str]
    block: str
    count: str = "num_nextn_predict_layers"
    embedding_first: bool = True
    normed: bool = True
    zero_first: bool = True
    shared: bool = False
    copies: Mapping[str, Literal["embedding", "output"]] = field(default_factory=dict)

    def key(self, part: Part, layer: int, depth: int) -> str:
        """The tensor name of a part of one layer of the head, behind a backbone of `depth` layers."""
        return self.names[part].format(i=layer, n=depth + layer)

    def prefix(self, layer: int, depth: int) -> str:
        """Start of the names of a decoder layer's tensors."""
        return self.block.format(i=layer, n=depth + layer)

    def owns(self, key: str, depth: int) -> bool:
        """Whether a tensor of a checkpoint belongs to a head in this layout, copies included."""
        if key in self.names.values():
            return True
        pattern = re.escape(self.block).replace(r"\{i\}", r"(\d+)").replace(r"\{n\}", r"(\d+)")
        match = re.match(pattern, key)
        return match is not None and ("{n}" not in self.block or int(match[1]) >= depth)


def _names(block: str, *names: str) -> dict[Part, str]:
    """Tensor names of the parts, in the order of `PARTS`."""
    return {part: f"{block}{name}.weight" for part, name in zip(PARTS, names, strict=True)}


_QWEN, _DEEPSEEK, _MIMO = "mtp.", "model.layers.{n}.", "model.mtp_layers.{i}."
LAYOUTS: dict[LayoutName, Layout] = {
    "qwen": Layout(
        name="qwen",
        names=_names(_QWEN, "pre_fc_norm_embedding", "pre_fc_norm_hidden", "fc", "norm"),
        block=_QWEN + "layers.{i}.",
        count="mtp_num_hidden_layers",
        zero_first=False,
        shared=True,
    ),
    "deepseek": Layout(
        name="deepseek",
        names=_names(_DEEPSEEK, "enorm", "hnorm", "eh_proj", "shared_head.norm"),
        block=_DEEPSEEK,
        normed=False,
        copies={
            _DEEPSEEK + "embed_tokens.weight": "embedding",
            _DEEPSEEK + "shared_head.head.weight": "output",
        },
    ),
    "mimo": Layout(
        name="mimo",
        names=_names(_MIMO, "token_layernorm", "hidden_layernorm", "input_proj", "final_layernorm"),
        block=_MIMO,
        embedding_first=False,
    ),
}

_FAMILIES: dict[LayoutName, tuple[str, ...]] = {
    "qwen": ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
    "deepseek": ("deepseek_v3", "deepseek_v32", "glm4_moe", "glm4_moe_lite"),
    "mimo": ("mimo",),
}


def family_of(config: Any) -> LayoutName | None:
    """The layout that a model's vendor uses; None for a model that comes without MTP."""
    kinds = {config.model_type, config.get_text_config().model_type}
    return next((layout for layout, families in _FAMILIES.items() if kinds & set(families)), None)


def layout_of(config: Any, name: str | None = None) -> Layout:
    """The layout of a model: as named, or its family's own; models without MTP of their own get `qwen`.

    Args:
        config: the model's configuration.
        name: layout to use, whatever the family is.

    Raises:
        ConfigError: no layout has this name.
    """
    if name is not None:
        if name not in LAYOUTS:
            raise ConfigError(f"unknown layout {name!r}", where="layout", mend=f"one of {', '.join(LAYOUTS)}")
        return LAYOUTS[name]
    return LAYOUTS[family_of(config) or "qwen"]


def layers_in(keys: Iterable[str], layout: Layout, depth: int) -> int:
    """Number of a head's layers that these tensor names hold, 0 for none."""
    owned = [key for key in keys if layout.owns(key, depth)]
    count = 0
    while any(key.startswith(layout.prefix(count, depth)) for key in owned):
        count += 1
    return count
