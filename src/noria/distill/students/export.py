"""Writing a student out as what the rest of the world opens: a diffusers folder, a LoRA file, a model card.

The folder is stock diffusers. Its components are copied from the base model, its transformer is the student, and its
scheduler is the base's less `shift_terminal`, so that the given pre-shift σ list means the same there as it did in
training. The scheduler's config also records that list and the call's settings;
:mod:`noria.distill.students.few_step` says who reads them and why they cannot be a stock pipeline's defaults.

A folder appears whole or not at all: it is written beside its place and renamed into it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.digests import weight_files, write_digests
from noria.core.errors import ConfigError, ModelError, require
from noria.core.files import appearing, check_output, inside
from noria.distill.adapters import FlowAdapter
from noria.distill.config import ExportConfig
from noria.distill.students.card import LORA_FILE, ExportResult, model_card
from noria.distill.students.few_step import RECORD, pipeline_source
from noria.distill.students.weights import student_weights

_DTYPES = {None: None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PICKLES = {
    ".bin",
    ".ckpt",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".msgpack",
    ".h5",
    ".onnx",
    ".pb",
    ".gguf",
    ".py",
}
_ANY_WEIGHTS = re.compile(r".*\.safetensors(\.index\b.*\.json)?")


def export_student(
    adapter: FlowAdapter,
    student: nn.Module | Mapping[str, Tensor],
    folder: Path,
    config: ExportConfig | None = None,
    *,
    base: Path | str | None = None,
    lora_scaling: float = 1.0,
    settings: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Write a student as a diffusers folder.

    A LoRA file of a fully trained student is a truncated SVD of the change of each linear layer.

    Args:
        adapter: adapter of a diffusers pipeline, as `open_pipeline` gives it.
        student: the network, or its tensors by name: all parameters, or LoRA matrices (`….lora_A.weight`,
            `….lora_B.weight`).
        folder: folder to make; it must not be there yet.
        config: settings of the export; a σ grid that it does not name is 1, 0.75, 0.5, 0.25.
        base: model whose other components are copied, a folder or a hub id in the local cache; the adapter's own
            when None.
        lora_scaling: α / rank of LoRA matrices given by name. It is multiplied into the file's matrices, so that
            every loader applies them at scale 1; a network knows its own.
        settings: settings of the run, for the card.

    Raises:
        ModelError: the adapter is not of a diffusers pipeline, or the base is not there or malformed.
        DataError: the base names a component outside its folder.
        CheckpointError: the weights are another model's, or not finite.
        ConfigError: the grid or a number is out of its range, or the base lies in the way.
        RunError: the folder exists, cannot be written, or the disk is full.
    """
    from noria.distill.integrations.diffusers.loading import find_model, read_index
    from noria.distill.integrations.diffusers.pipeline_adapter import PipelineAdapter

    config = config or ExportConfig()
    if not isinstance(adapter, PipelineAdapter):
        raise ModelError(
            f"a {adapter.name!r} model is no diffusers pipeline",
            where="export",
            mend="export a model that diffusers opens",
        )
    sigmas_pre_shift = (1.0, 0.75, 0.5, 0.25) if config.sigmas is None else config.sigmas
    grid = adapter.contract.grid(sigmas_pre_shift)
    if sigmas_pre_shift[0] != 1:
        raise ConfigError(
            f"the σ grid starts at {sigmas_pre_shift[0]}, but sampling starts from pure noise",
            where="σ grid",
            mend="start it at 1",
        )
    base = adapter.folder if base is None else find_model(base)
    index = read_index(base)
    components = _components(index, base)
    if index["_class_name"] != adapter.pipeline_class:
        raise ModelError(
            f"the base is a {index['_class_name']}, the student a {adapter.pipeline_class}",
            where=str(base),
            mend="give the model that the student was distilled from",
        )
    folder = folder.expanduser().absolute()
    check_output(folder, base, overwrite=config.overwrite, marks=("pipeline.py", "model_index.json"))
    weights, matrices, captured = student_weights(
        adapter.network,
        student,
        lora_scaling=lora_scaling,
        lora_rank=config.lora_rank if config.lora else None,
        dtype=_DTYPES[config.precision],
    )
    result = ExportResult(
        folder=folder,
        lora=folder / LORA_FILE if matrices else None,
        sigmas_pre_shift=tuple(float(s) for s in sigmas_pre_shift),
        sigmas=tuple(round(float(s), 6) for s in grid),
        captured=captured,
    )
    with appearing(folder) as partial:
        for name in components:
            if name == "transformer":
                _write_transformer(weights, base / name, partial / name)
            elif name == "scheduler":
                _write_scheduler(adapter, result, partial / name)
            else:
                _copy_component(base / name, partial / name, adapter.variant)
        shutil.copyfile(base / "model_index.json", partial / "model_index.json")
        for path in sorted(base.iterdir()):
            if path.is_file() and re.fullmatch(r"(LICEN[CS]E|NOTICE)[\w.-]*", path.name, re.IGNORECASE):
                shutil.copyfile(path, partial / path.name)
        if matrices:
            _write_lora(matrices, partial / LORA_FILE)
        (partial / "pipeline.py").write_text(pipeline_source(adapter.pipeline_class), encoding="utf-8")
        (partial / "README.md").write_text(model_card(adapter, result, base, settings), encoding="utf-8")
        write_digests(partial, weight_files(partial))
    return result


def _components(index: Mapping[str, Any], base: Path) -> list[str]:
    """Names of the components that are there, each a folder inside the base."""
    names = []
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or not value or value[0] is None:
            continue
        if not inside(base, name).is_dir():
            raise ModelError(
                f"the component {name!r} has no folder", where=str(base), mend="download the model again"
            )
        names.append(name)
    return names


def _copy_component(source: Path, target: Path, variant: str | None) -> None:
    """Copy a component's files, links followed; no pickles, no code, and one set of weights, under its plain name.

    The set is that of `variant`, or the plain one where the component has none of that variant.
    """
    from noria.distill.integrations.diffusers.variants import plain_name

    files = [path for path in source.rglob("*") if path.is_file() and path.suffix.lower() not in _PICKLES]
    named = {path: plain_name(path.name) for path in files}
    sets = {name[1] for name in named.values() if name is not None}
    chosen = variant if variant in sets else None
    for path in sorted(files):
        relative, name = path.relative_to(source), named[path]
        if any(part.startswith(".") for part in relative.parts):
            continue
        if chosen in sets and _ANY_WEIGHTS.fullmatch(path.name) and (name is None or name[1] != chosen):
            continue
        place = target / (relative if name is None else relative.with_name(name[0]))
        place.parent.mkdir(parents=True, exist_ok=True)
        if name is not None and name[1] is not None and name[0].endswith(".json"):
            place.write_text(_plain_index(path), encoding="utf-8")
        else:
            shutil.copyfile(path, place)


def _plain_index(path: Path) -> str:
    """An index of weight files, with the plain names of its files.

    Raises:
        ModelError: it is no such index.
    """
    from noria.distill.integrations.diffusers.variants import plain_name

    try:
        index = json.loads(path.read_bytes())
        files = {tensor: plain_name(file) for tensor, file in index["weight_map"].items()}
        index["weight_map"] = {tensor: name[0] for tensor, name in files.items() if name is not None}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"not an index of weights ({type(error).__name__})", where=str(path), mend="download it again"
        ) from error
    return json.dumps(index, indent=2) + "\n"


def _write_transformer(weights: dict[str, Tensor], source: Path, target: Path) -> None:
    hub = require("huggingface_hub", "distill")
    target.mkdir()
    shutil.copyfile(source / "config.json", target / "config.json")
    hub.save_torch_state_dict(
        weights, target, filename_pattern="diffusion_pytorch_model{suffix}.safetensors", max_shard_size="10GB"
    )


def _write_scheduler(adapter: Any, result: ExportResult, target: Path) -> None:
    scheduler = adapter.scheduler
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.register_to_config(**{RECORD: {"sigmas": list(result.sigmas_pre_shift), "call": adapter.call}})
    scheduler.save_pretrained(target)


def _write_lora(matrices: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({f"transformer.{name}": m.contiguous() for name, m in matrices.items()}, path, {"format": "pt"})
