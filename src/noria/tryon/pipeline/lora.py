"""LoRA weights on the transformer: which were loaded, and which were not, by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.files import check_input, decoding

_PART = re.compile(r"\.(lora_[AB](\.\w+)?\.weight|alpha|diff(_b)?)$")


@dataclass(frozen=True)
class LoadedLora:
    """Layers that a LoRA changed, and keys of its file that fit no layer."""

    used: list[str]
    ignored: list[str]


def load_lora(pipeline: Any, path: Path, name: str = "garment") -> LoadedLora:
    """Load a LoRA in diffusers' key names, or another trainer's that diffusers converts.

    Raises:
        DataError: the file is no LoRA, or none of its keys fits this model.
    """
    from safetensors.torch import load_file

    check_input(path)
    with decoding(path, "a LoRA in safetensors"):
        state = load_file(path)
        converted = pipeline.lora_state_dict(state)
        converted = converted[0] if isinstance(converted, tuple) else converted
    model = pipeline.transformer or pipeline.transformer_2
    layers = {layer for layer, _ in model.named_modules()}
    known, ignored = {}, []
    for key, value in converted.items():
        layer = _PART.sub("", key.removeprefix("transformer."))
        if layer in layers:
            known[f"transformer.{key.removeprefix('transformer.')}"] = value
        else:
            ignored.append(key)
    if not known:
        raise DataError(
            f"none of its {len(converted)} keys fits this model",
            where=str(path),
            mend="give a LoRA of Wan-VACE",
        )
    with decoding(path, "a LoRA of this model"):
        model.load_lora_adapter(known, prefix="transformer", adapter_name=name)
    used = sorted({_PART.sub("", key.removeprefix("transformer.")) for key in known})
    return LoadedLora(used, ignored)
