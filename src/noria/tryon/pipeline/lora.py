"""LoRA weights on the transformer: which of a file were loaded, by name; and those of a training as a file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from noria.core.errors import ConfigError, DataError
from noria.core.files import check_input, decoding

FILE = "pytorch_lora_weights.safetensors"
"""Name by which diffusers finds the LoRA of a folder."""
_PART = re.compile(r"\.(lora_[AB](\.\w+)?\.weight|alpha|diff(_b)?)$")
_PREFIX = "transformer."
_ABOUT = "lora_adapter_metadata"


@dataclass(frozen=True)
class LoadedLora:
    """Layers that a LoRA changed, and keys of its file that fit no layer."""

    used: list[str]
    ignored: list[str]


def load_lora(
    pipeline: Any, path: Path, *, expert: Literal["high", "low"] | None = None, name: str = "garment"
) -> LoadedLora:
    """Load a LoRA in diffusers' key names, or another trainer's that diffusers converts, at the strength that it says.

    Args:
        pipeline: the models.
        path: file of the LoRA.
        expert: transformer that it is for, of two: of high or of low noise levels.
        name: name of the adapter.

    Raises:
        DataError: the file is no LoRA, or none of its keys fits this model.
        ConfigError: an expert is named, and the model has one transformer.
    """
    from safetensors import safe_open

    check_input(path)
    with decoding(path, "a LoRA in safetensors"):
        with safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = json.loads((file.metadata() or {}).get(_ABOUT, "null"))
        converted = pipeline.lora_state_dict(state)
        converted = converted[0] if isinstance(converted, tuple) else converted
        settings = {f"{_PREFIX}{k.removeprefix(_PREFIX)}": v for k, v in (about or {}).items()}
    model = _model(pipeline, expert)
    layers = {layer for layer, _ in model.named_modules()}
    known, ignored = {}, []
    for key, value in converted.items():
        layer = _PART.sub("", key.removeprefix(_PREFIX))
        if layer in layers:
            known[f"{_PREFIX}{key.removeprefix(_PREFIX)}"] = value
        else:
            ignored.append(key)
    if not known:
        raise DataError(
            f"none of its {len(converted)} keys fits this model",
            where=str(path),
            mend="give a LoRA of Wan-VACE",
        )
    with decoding(path, "a LoRA of this model"):
        model.load_lora_adapter(known, prefix="transformer", adapter_name=name, metadata=settings or None)
    used = sorted({_PART.sub("", key.removeprefix(_PREFIX)) for key in known})
    return LoadedLora(used, ignored)


def save_lora(model: Any, folder: Path) -> Path:
    """Write the LoRA of a trained transformer as diffusers' own pipelines load it; the path of the file."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    name, config = next(iter(model.peft_config.items()))
    about = {
        f"{_PREFIX}{key}": sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    state = {
        f"{_PREFIX}{key}": value for key, value in get_peft_model_state_dict(model, adapter_name=name).items()
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(tensors, folder / FILE, {"format": "pt", _ABOUT: json.dumps(about, default=str)})
    return folder / FILE


def _model(pipeline: Any, expert: Literal["high", "low"] | None) -> Any:
    if pipeline.transformer is None or pipeline.transformer_2 is None:
        if expert == "low":
            raise ConfigError("the model has one transformer", where="--lora-low", mend="give --lora alone")
        return pipeline.transformer or pipeline.transformer_2
    return pipeline.transformer_2 if expert == "low" else pipeline.transformer
