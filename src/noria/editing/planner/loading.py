"""Policies from plain Hugging Face folders, and back into them with their chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from noria.core.digests import check_digests, weight_files, write_digests
from noria.core.errors import ModelError, require
from noria.core.files import appearing, check_inputs, decoding
from noria.editing.planner.policy import Policy
from noria.editing.use.planners import PLANNER_INSTRUCTION

FAMILIES = ("qwen3_vl", "qwen2_5_vl")
"""Families of models that a policy holds, by the `model_type` of their configuration."""


def open_policy(
    name: str | Path,
    *,
    precision: str = "fp32",
    device: torch.device | str | None = None,
    allow_download: bool = False,
    system_text: str = PLANNER_INSTRUCTION,
) -> Policy:
    """Load a policy from a Hugging Face folder or a hub id; weights are safetensors, never a pickle.

    Raises:
        ModelError: there is no such model, or it is of another family than `FAMILIES`.
        CheckpointError: a file of weights differs from the digest that Noria wrote.
        MissingExtra: transformers is not installed.
    """
    transformers = require("transformers", "editing")
    source = Path(name).expanduser()
    local = source.is_dir()
    if local:
        check_inputs(source)
        check_digests(source)
    elif source.exists() or not allow_download:
        raise ModelError(
            f"no model {str(name)!r}",
            where="planner",
            mend="give a model folder, or a hub id with allow_download",
        )
    where = str(source) if local else str(name)
    options: dict[str, Any] = {"local_files_only": not allow_download}
    transformers.utils.logging.disable_progress_bar()
    with decoding(source, "a vision-language model", error=ModelError):
        config = transformers.AutoConfig.from_pretrained(where, **options)
        if config.model_type not in FAMILIES:
            raise ModelError(
                f"a model of the type {config.model_type}",
                where=where,
                mend=f"use one of {', '.join(FAMILIES)}",
            )
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            where, dtype=dtype, use_safetensors=True, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        processor = transformers.Qwen2VLImageProcessorPil.from_pretrained(where, **options)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Policy(model.to(device).eval(), tokenizer, processor, system_text=system_text)


def save_policy(policy: Policy, folder: Path, model: Any = None) -> Path:
    """Write a policy as a plain Hugging Face folder with its chat template, ready for vLLM; whole or not at all.

    Args:
        policy: what to write.
        folder: where; an earlier one is replaced.
        model: model to write instead of the policy's own, such as one with an adapter merged in.

    Raises:
        RunError: the disk refuses.
    """
    with appearing(folder) as temporary:
        (policy.model if model is None else model).save_pretrained(temporary)
        policy.tokenizer.save_pretrained(temporary)
        save_processor(policy.processor, temporary)
        write_digests(temporary, weight_files(temporary))
    return folder


def save_processor(processor: Any, folder: Path) -> None:
    """Write an image processor under the name that published folders have."""
    processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["image_processor_type"] = "Qwen2VLImageProcessor"
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
