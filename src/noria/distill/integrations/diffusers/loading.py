"""Loading a pipeline by what its `model_index.json` says it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from noria.core.errors import DataError, ModelError, NoriaError, require
from noria.core.files import inside
from noria.core.records import read_json
from noria.distill.integrations.diffusers.flux import FluxAdapter
from noria.distill.integrations.diffusers.longcat_image import LongCatImageAdapter
from noria.distill.integrations.diffusers.pipeline_adapter import PipelineAdapter
from noria.distill.integrations.diffusers.qwen_image import QwenImageAdapter
from noria.distill.integrations.diffusers.stable_diffusion_3 import StableDiffusion3Adapter
from noria.distill.integrations.diffusers.variants import weight_sets

ADAPTERS: dict[str, type[PipelineAdapter]] = {
    adapter.pipeline_class: adapter
    for adapter in (StableDiffusion3Adapter, LongCatImageAdapter, FluxAdapter, QwenImageAdapter)
}
"""Adapters by the pipeline class they serve."""


def open_pipeline(
    model: str | Path,
    *,
    height: int | None = None,
    width: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    variant: str | None = None,
    revision: str | None = None,
    local_files_only: bool = True,
    **settings: Any,
) -> PipelineAdapter:
    """Open a text-to-image pipeline and wrap it in its family's adapter.

    Args:
        model: a diffusers folder, or the id of a hub repository (from the local cache only, unless told otherwise).
        height: image height in pixels; the pipeline's default when None.
        width: image width in pixels; the pipeline's default when None.
        dtype: number format of all weights.
        device: device of all weights.
        variant: variant of the weight files, such as `fp16`; the plain ones where a component has no such files.
        revision: revision of the hub repository.
        local_files_only: whether the network is never used.
        settings: `lora_feed_forward`, `cache_bytes`, and the family's own (`guidance`, `max_text`).

    Raises:
        ModelError: the model is not there, is not a pipeline we serve, brings its own code, has no safetensors
            weights or none of the variant, or lacks a component.
        ConfigError: the image size does not fit, or the scheduler is one that a student cannot be trained for.
    """
    diffusers = require("diffusers", "distill")
    require("transformers", "distill")
    folder = find_model(model, variant=variant, revision=revision, local_files_only=local_files_only)
    index = read_index(folder)
    name = index["_class_name"]
    adapter = ADAPTERS[name]
    absent = _absent(index, adapter, folder)
    _check_variant([folder / name for name in index if name not in adapter.left_out], variant, str(model))
    with _readable(str(model)), _quiet():
        pipeline = getattr(diffusers, name).from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            variant=variant,
            **dict.fromkeys([*adapter.left_out, *absent]),
        )
        if pipeline.transformer.dtype != dtype:  # an older diffusers, which says `torch_dtype`
            pipeline = pipeline.to(dtype=dtype)
        pipeline = pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    where: dict[str, Any] = {"folder": folder, "source": str(model), "variant": variant}
    return adapter(pipeline, height=height, width=width, **where, **settings)


def _absent(index: dict[str, Any], adapter: type[PipelineAdapter], folder: Path) -> list[str]:
    """Components that a pipeline goes without, none of which its family needs.

    Raises:
        ModelError: a component that is needed is not there.
    """
    absent = [name for name in adapter.may_lack if index.get(name) in (None, [None, None])]
    for name, value in index.items():
        if not isinstance(value, list) or name in adapter.left_out or name in absent:
            continue
        if value == [None, None]:
            raise ModelError(f"the pipeline has no {name}", where=str(folder), mend="give a whole pipeline")
        if not inside(folder, name).is_dir():
            without = f", or write [null, null] for it in model_index.json: {name} can be left out"
            raise ModelError(
                f"the component {name!r} has no folder",
                where=str(folder),
                mend="download the model again" + (without if name in adapter.may_lack else ""),
            )
    return absent


def _check_variant(components: list[Path], variant: str | None, model: str) -> None:
    """Refuse a variant that no component has, and a component without plain weights and those of the variant.

    Raises:
        ModelError: so it is.
    """
    sets = {folder.name: weight_sets(folder) for folder in components}
    named = sorted({name for names in sets.values() for name in names if name is not None})
    if variant is not None and variant not in named:
        raise ModelError(
            f"no weights of the variant {variant!r}",
            where=model,
            mend=f"there are: {', '.join(named)}" if named else "leave --variant out",
        )
    for component, names in sets.items():
        if names and not names & {variant, None}:
            raise ModelError(
                f"{component} has weights of a variant only", where=model, mend=f"give --variant {named[0]}"
            )


def find_model(
    model: str | Path,
    *,
    variant: str | None = None,
    revision: str | None = None,
    local_files_only: bool = True,
) -> Path:
    """The local folder of a model: itself, or the snapshot of a hub repository.

    Raises:
        ModelError: there is no such folder, nor such a repository in the cache (or on the hub, if that may be asked).
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    text = str(model)
    if path.exists() or path.is_absolute() or text.startswith(".") or text.count("/") != 1:
        raise ModelError(
            "no such model folder", where=text, mend="give a diffusers folder or a hub id such as owner/name"
        )
    diffusers = require("diffusers", "distill")
    with _readable(text, missing=local_files_only), _quiet():
        return Path(
            diffusers.DiffusionPipeline.download(
                text,
                variant=variant,
                revision=revision,
                local_files_only=local_files_only,
                use_safetensors=True,
            )
        )


def read_index(folder: Path) -> dict[str, Any]:
    """`model_index.json` of a pipeline that an adapter serves.

    Raises:
        ModelError: the file is absent or malformed, or names a pipeline that no adapter serves or that brings its
            own code.
    """
    path = folder / "model_index.json"
    if not path.exists():
        raise ModelError(
            "there is no model_index.json",
            where=str(folder),
            mend="give the folder of a whole diffusers pipeline",
        )
    try:
        index = read_json(path)
    except DataError as error:
        raise ModelError(error.what, where=error.where, mend="download the model again") from error
    name = index.get("_class_name") if isinstance(index, dict) else None
    if isinstance(name, list):
        raise ModelError(
            f"the pipeline {name[-1]} brings its own code, which is never run",
            where=str(path),
            mend=f"use a pipeline of diffusers itself: {', '.join(ADAPTERS)}",
        )
    if name not in ADAPTERS:
        raise ModelError(
            f"no adapter serves the pipeline class {name!r}",
            where=str(path),
            mend=f"supported: {', '.join(ADAPTERS)}",
        )
    return dict(index)


@contextlib.contextmanager
def _readable(model: str, *, missing: bool = False) -> Iterator[None]:
    """Turn what the Hugging Face stack raises into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except NoriaError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, ImportError, SafetensorError) as error:
        if missing and isinstance(error, (OSError, ValueError)):
            raise ModelError(
                "no such folder, and no such hub repository in the local cache",
                where=model,
                mend="download it first, or allow the network (local_files_only=False)",
            ) from error
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"the pipeline does not open ({type(error).__name__}: {first})",
            where=model,
            mend="it must be a whole diffusers pipeline with safetensors weights",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No loading bars: the caller reports progress."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    pairs = [
        (module, module.is_progress_bar_enabled()) for module in (diffusers_logging, transformers_logging)
    ]
    for module, _ in pairs:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module, enabled in pairs:
            if enabled:
                module.enable_progress_bar()
