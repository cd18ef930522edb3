"""Writing a student out as what the rest of the world opens: a diffusers folder, a LoRA file, a model card.

The folder is stock diffusers. Its components are copied from the base model, its transformer is the student, and its
scheduler is the base's less `shift_terminal`, so that the given pre-shift σ list means the same there as it did in
training. The scheduler's config also records that list and the call's settings; :mod:`noria.distill.few_step` says
who reads them and why they cannot be a stock pipeline's defaults.

A folder appears whole or not at all: it is written beside its place and renamed into it.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from noria.core.errors import CheckpointError, ConfigError, ModelError, require
from noria.core.files import appearing, check_output, inside
from noria.distill.adapters import FlowAdapter
from noria.distill.few_step import RECORD, pipeline_source

__all__ = ["LORA_FILE", "Exported", "export_student", "merged_weights"]

LORA_FILE = "student_lora.safetensors"

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
_PLAIN_WEIGHTS = re.compile(r"(model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_ANY_WEIGHTS = re.compile(r".*\.safetensors(\.index\b.*\.json)?")


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: the diffusers folder.
        lora: the LoRA file in it, if there is one.
        sigmas_pre_shift: the grid a pipeline is given.
        sigmas: the grid the network then sees, at the training size.
        captured: for a LoRA made from a full student, the share of the squared weight change that it holds; 1 for a
            LoRA student.
    """

    folder: Path
    lora: Path | None
    sigmas_pre_shift: tuple[float, ...]
    sigmas: tuple[float, ...]
    captured: float | None


def export_student(
    adapter: FlowAdapter,
    student: nn.Module | Mapping[str, Tensor],
    folder: Path,
    *,
    base: Path | str | None = None,
    sigmas_pre_shift: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
    lora: bool = False,
    lora_rank: int = 64,
    lora_scaling: float = 1.0,
    role: str = "student",
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    local_files_only: bool = True,
) -> Exported:
    """Write a student as a diffusers folder.

    Args:
        adapter: of a diffusers pipeline, as `open_pipeline` gives it.
        student: the network, or its tensors by name: all parameters, or LoRA matrices (`….lora_A.weight`,
            `….lora_B.weight`).
        folder: where; made, and must not be there yet.
        base: the model whose other components are copied: a folder or a hub id; the adapter's own when None.
        sigmas_pre_shift: the grid the student is to be run with, falling from 1, before the scheduler's shift.
        lora: write a LoRA file also for a fully trained student, by truncated SVD of the change of each linear layer.
            A LoRA student always gets one.
        lora_rank: of that SVD.
        lora_scaling: α / rank of LoRA matrices given by name. It is multiplied into the file's matrices, so that
            every loader applies them at scale 1; a network knows its own.
        role: the LoRA adapter in `student` that is the student.
        dtype: of the written weights; the base network's own when None.
        overwrite: replace an earlier export at `folder`.
        settings: the run's configuration, for the card.
        local_files_only: look for a hub id in the local cache only.

    Raises:
        ModelError: the adapter is not of a diffusers pipeline, or the base is not there or malformed.
        DataError: the base names a component outside its folder.
        CheckpointError: the weights are another model's, or not finite.
        ConfigError: the grid or a number is out of its range, or the base lies in the way.
        RunError: the folder exists, cannot be written, or the disk is full.
    """
    from noria.distill.integrations.diffusers.opening import find_model, read_index
    from noria.distill.integrations.diffusers.pipeline_adapter import PipelineAdapter

    if not isinstance(adapter, PipelineAdapter):
        raise ModelError(
            f"a {adapter.name!r} model is no diffusers pipeline",
            where="export",
            mend="export a model that diffusers opens",
        )
    grid = adapter.contract.grid(sigmas_pre_shift)
    if sigmas_pre_shift[0] != 1:
        raise ConfigError(
            f"the σ grid starts at {sigmas_pre_shift[0]}, but sampling starts from pure noise",
            where="σ grid",
            mend="start it at 1",
        )
    if lora_rank < 1 or not lora_scaling > 0:
        raise ConfigError(
            f"LoRA rank {lora_rank} or scaling {lora_scaling} is not above 0",
            where="export",
            mend="use numbers above 0",
        )
    base = adapter.folder if base is None else find_model(base, local_files_only=local_files_only)
    components = _components(read_index(base), base)
    if read_index(base)["_class_name"] != adapter.pipeline_class:
        raise ModelError(
            f"the base is a {read_index(base)['_class_name']}, the student a {adapter.pipeline_class}",
            where=str(base),
            mend="give the model that the student was distilled from",
        )
    folder = folder.expanduser().absolute()
    check_output(folder, base, overwrite=overwrite, marks=("pipeline.py", "model_index.json"))

    original = _plain(adapter.network.state_dict())
    matrices = _lora_matrices(student, role, lora_scaling)
    if not isinstance(
        student, nn.Module
    ):  # a checkpoint holds what was trained; buffers (position tables) are the base's
        student = {_bare(n): b for n, b in adapter.network.named_buffers() if _bare(n) in original} | dict(
            student
        )
    weights = merged_weights(original, student, matrices, dtype=dtype)
    captured = 1.0 if matrices else None
    if lora and not matrices:
        matrices, captured = _low_rank(original, weights, adapter.network, lora_rank)

    exported = Exported(
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
                _write_scheduler(adapter, exported, partial / name)
            else:
                _copy_component(base / name, partial / name)
        shutil.copyfile(base / "model_index.json", partial / "model_index.json")
        for path in sorted(base.iterdir()):
            if path.is_file() and re.fullmatch(r"(LICEN[CS]E|NOTICE)[\w.-]*", path.name, re.IGNORECASE):
                shutil.copyfile(path, partial / path.name)
        if matrices:
            _write_lora(matrices, partial / LORA_FILE)
        (partial / "pipeline.py").write_text(pipeline_source(adapter.pipeline_class), encoding="utf-8")
        (partial / "README.md").write_text(_card(adapter, exported, base, settings), encoding="utf-8")
    return exported


# -- weights ----------------------------------------------------------------------------------------------------------


def merged_weights(
    original: Mapping[str, Tensor],
    student: nn.Module | Mapping[str, Tensor],
    matrices: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """The student's whole transformer on the CPU, LoRA merged in: W + B A.

    Args:
        original: the base transformer's weights.
        student: the network, or all its weights by name, or LoRA matrices by name.
        matrices: LoRA matrices as :func:`_lora_matrices` gives them; empty for a full student.
        dtype: of the floating weights; each one's own in the base when None.

    Raises:
        CheckpointError: names or shapes are not the base's, or a value is not finite.
    """
    given = (
        original if matrices else _plain(student.state_dict() if isinstance(student, nn.Module) else student)
    )
    missing, extra = sorted(original.keys() - given.keys()), sorted(given.keys() - original.keys())
    if missing or extra:
        name, fault = (missing[0], "lacks") if missing else (extra[0], "has")
        raise CheckpointError(
            f"the student {fault} {name!r}, {len(missing) + len(extra)} names differ from the base's",
            where="export",
            mend="give the base model that the student was distilled from",
        )
    unknown = sorted(n for n in matrices if f"{n.rpartition('.lora_')[0]}.weight" not in original)
    if unknown:
        raise CheckpointError(
            f"the base has no layer for {unknown[0]!r}",
            where="export",
            mend="give the base model that the student was distilled from",
        )
    weights = {}
    for name, theirs in original.items():
        ours = given[name].detach().to("cpu")
        if ours.shape != theirs.shape:
            raise CheckpointError(
                f"{name} has shape {tuple(ours.shape)}, the base's {tuple(theirs.shape)}",
                where="export",
                mend="give the base model that the student was distilled from",
            )
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" in matrices and name.endswith(".weight"):
            a, b = matrices[f"{layer}.lora_A.weight"], matrices[f"{layer}.lora_B.weight"]
            if (b.shape[0], a.shape[1]) != ours.shape:
                raise CheckpointError(
                    f"the LoRA of {layer} makes {(b.shape[0], a.shape[1])}, the base's weight is {tuple(ours.shape)}",
                    where="export",
                    mend="give the base model that the student was distilled from",
                )
            ours = ours.float() + b @ a
        if ours.is_floating_point():
            ours = ours.to(dtype or theirs.dtype)
            if not bool(ours.isfinite().all()):
                raise CheckpointError(
                    f"{name} holds values that are not finite",
                    where="export",
                    mend="use an earlier checkpoint",
                )
        weights[name] = ours.contiguous()
    return weights


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names they have in a bare network: no LoRA, no wrapper's prefix."""
    plain = {}
    for name, value in state.items():
        if ".lora_" not in name and not name.startswith("lora_"):
            plain[_bare(name)] = value
    return plain


def _bare(name: str) -> str:
    """A parameter's name without what wrappers (DDP, torch.compile, peft) add to it."""
    return (
        name.replace("_orig_mod.", "")
        .removeprefix("module.")
        .removeprefix("base_model.model.")
        .replace(".base_layer.", ".")
    )


def _lora_matrices(student: nn.Module | Mapping[str, Tensor], role: str, scaling: float) -> dict[str, Tensor]:
    """LoRA matrices as `<layer>.lora_A.weight` and `.lora_B.weight`, float32 on the CPU, the scale already in B."""
    matrices: dict[str, Tensor] = {}
    if isinstance(student, nn.Module):
        for name, module in student.named_modules():
            if role in getattr(module, "lora_A", {}):
                layer: Any = module
                scale = float(layer.scaling[role])
                matrices[f"{_bare(name)}.lora_A.weight"] = layer.lora_A[role].weight.detach().float().cpu()
                matrices[f"{_bare(name)}.lora_B.weight"] = (
                    layer.lora_B[role].weight.detach().float().cpu() * scale
                )
        return matrices
    for name, value in student.items():
        found = re.fullmatch(
            rf"(?:base_model\.model\.)?(.+)\.(lora_[AB])(?:\.{re.escape(role)})?\.weight", name
        )
        if found:
            value = value.detach().float().cpu()
            matrices[f"{found[1]}.{found[2]}.weight"] = value * scaling if found[2] == "lora_B" else value
    unpaired = [
        n
        for n in matrices
        if n.replace(".lora_A.", ".lora_?.").replace(".lora_B.", ".lora_A.") not in matrices
    ]
    unpaired = [n for n in unpaired if _partner(n) not in matrices]
    if unpaired:
        raise CheckpointError(
            f"{unpaired[0]!r} has no partner {_partner(unpaired[0])!r}",
            where="export",
            mend="give both LoRA matrices",
        )
    return matrices


def _partner(name: str) -> str:
    return (
        name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")
    )


def _low_rank(
    original: Mapping[str, Tensor], weights: Mapping[str, Tensor], network: nn.Module, rank: int
) -> tuple[dict[str, Tensor], float]:
    """The best rank-r change of each linear layer, and the share of all squared change (biases, norms too) it holds."""
    matrices: dict[str, Tensor] = {}
    total = held = 0.0
    linear = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    for name, new in weights.items():
        if not new.is_floating_point():
            continue
        change = new.float() - original[name].detach().cpu().float()
        energy = float(change.square().sum())
        total += energy
        if name not in linear or energy == 0:
            continue
        u, s, v = _svd(change, rank)
        held += float(s.square().sum())
        root = s.sqrt()
        matrices[f"{name.removesuffix('.weight')}.lora_A.weight"] = (root[:, None] * v).contiguous()
        matrices[f"{name.removesuffix('.weight')}.lora_B.weight"] = (u * root).contiguous()
    return matrices, held / total if total else 1.0


def _svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `rank` largest singular triples: exact for a small matrix, randomised (seeded) for a large one."""
    if min(matrix.shape) <= max(512, 2 * rank):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        u, s, w = torch.svd_lowrank(matrix, q=rank + 16, niter=4)
    return u[:, :rank], s[:rank], w[:, :rank].T


# -- files ------------------------------------------------------------------------------------------------------------


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


def _copy_component(source: Path, target: Path) -> None:
    """Copy a component's files, links followed; no pickles, no code, no second set of weights in another precision."""
    files = [path for path in source.rglob("*") if path.is_file() and path.suffix.lower() not in _PICKLES]
    plain = any(_PLAIN_WEIGHTS.fullmatch(path.name) for path in files)
    for path in sorted(files):
        relative = path.relative_to(source)
        if any(part.startswith(".") for part in relative.parts):
            continue
        if plain and _ANY_WEIGHTS.fullmatch(path.name) and not _PLAIN_WEIGHTS.fullmatch(path.name):
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / relative)


def _write_transformer(weights: dict[str, Tensor], source: Path, target: Path) -> None:
    hub = require("huggingface_hub", "distill")
    target.mkdir()
    shutil.copyfile(source / "config.json", target / "config.json")
    hub.save_torch_state_dict(
        weights, target, filename_pattern="diffusion_pytorch_model{suffix}.safetensors", max_shard_size="10GB"
    )


def _write_scheduler(adapter: Any, exported: Exported, target: Path) -> None:
    scheduler = adapter.scheduler
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.register_to_config(
        **{RECORD: {"sigmas": list(exported.sigmas_pre_shift), "call": adapter.call}}
    )
    scheduler.save_pretrained(target)


def _write_lora(matrices: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({f"transformer.{name}": m.contiguous() for name, m in matrices.items()}, path, {"format": "pt"})


# -- the card ---------------------------------------------------------------------------------------------------------


def _card(adapter: Any, exported: Exported, base: Path, settings: Mapping[str, Any] | None) -> str:
    """README.md of the export."""
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", adapter.source) is not None
    source = adapter.source if hub else base.name  # never where the user keeps it
    theirs = _front_matter(base)
    front: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
    }
    if hub:
        front["base_model"] = source
    front |= {key: theirs[key] for key in ("license", "license_name", "license_link") if key in theirs}
    front["tags"] = ["distillation", "few-step", "flow-matching", *(["lora"] if exported.lora else [])]
    steps = len(exported.sigmas_pre_shift)
    call: dict[str, Any] = {
        "sigmas": list(exported.sigmas_pre_shift),
        "num_inference_steps": steps,
        **adapter.call,
    }
    arguments = "".join(f"    {name}={value!r},\n" for name, value in call.items())
    shift = f"shift {adapter.contract.shift:.6g}" + (
        "" if adapter.mu is None else f" (μ = {adapter.mu:.6g} at this size)"
    )
    true = exported.sigmas[:-1]
    rows = "".join(
        f"| {i} | {pre:.6g} | {now:.6g} |\n"
        for i, (pre, now) in enumerate(zip(exported.sigmas_pre_shift, true, strict=True), 1)
    )
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# A {steps}-step student of {source}\n",
        "Distilled with `noria.distill` (continuous-time distribution matching and its relatives, arXiv 2605.06376). "
        f"It samples in {steps} network {'call' if steps == 1 else 'calls'}, without classifier-free guidance.\n",
        "## Use\n",
        "With diffusers alone, give the steps and the guidance; a stock pipeline has no way to take them from here:\n",
        "```python\nfrom diffusers import DiffusionPipeline\n\n"
        'pipe = DiffusionPipeline.from_pretrained("this-folder")\n'
        f'image = pipe(\n    "a prompt",\n{arguments}).images[0]\n```\n',
        "To have them as the defaults of a plain `pipe(prompt)`, either let Noria teach diffusers:\n",
        "```python\nfrom noria.distill import few_step\n\nfew_step.register()\n"
        'pipe = DiffusionPipeline.from_pretrained("this-folder")\nimage = pipe("a prompt").images[0]\n```\n',
        "or trust the `pipeline.py` beside this card, once you have read it:\n",
        "```python\npipe = DiffusionPipeline.from_pretrained(\n"
        '    "this-folder", custom_pipeline="this-folder", trust_remote_code=True\n)\n```\n',
    ]
    if exported.lora:
        parts += ["## LoRA\n", _lora_text(adapter, exported)]
    parts += [
        "## Noise levels\n",
        f"Pass the pre-shift σ; the scheduler applies its {shift} itself, once. The network then sees the true σ "
        f"at {adapter.size[0]} × {adapter.size[1]} pixels:\n",
        f"| step | pre-shift σ | true σ |\n| --- | --- | --- |\n{rows}",
    ]
    if adapter.notes:
        parts.append("\n".join(f"- {note}." for note in adapter.notes) + "\n")
    parts += ["## Licence\n", _licence_text(theirs, source)]
    if settings:
        shown = yaml.safe_dump(
            json.loads(json.dumps(settings, default=str)), sort_keys=False, allow_unicode=True
        )
        parts += ["## Training settings\n", "".join(f"    {line}\n" for line in shown.splitlines())]
    return "\n".join(parts)


def _lora_text(adapter: Any, exported: Exported) -> str:
    load = (
        f'pipe.load_lora_weights("this-folder", weight_name="{LORA_FILE}")'
        if hasattr(adapter.pipeline, "load_lora_weights")
        else f'pipe.transformer.load_lora_adapter("this-folder", weight_name="{LORA_FILE}")'
    )
    text = f"`{LORA_FILE}` turns the base model into the student, at scale 1 (α is multiplied in):\n\n"
    text += f"```python\n{load}\n```\n"
    if exported.captured is not None and exported.captured < 1:
        text += (
            f"\nIt approximates a fully trained student: it holds {exported.captured:.1%} of the squared change of the "
            "weights. Biases and norms are not in it.\n"
        )
    return text


def _licence_text(theirs: Mapping[str, Any], source: str) -> str:
    named = theirs.get("license_name") or theirs.get("license")
    link = f" ({theirs['license_link']})" if theirs.get("license_link") else ""
    return (
        f"These weights derive from {source}, whose licence"
        + (f", {named}{link}," if named else "")
        + " governs them too: read it before use.\n"
    )


def _front_matter(base: Path) -> dict[str, Any]:
    """The YAML head of the base's card; empty where there is none or it does not parse."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        found = re.match(
            r"---\s*\n(.*?)\n---\s*(\n|$)", (base / "README.md").read_text(encoding="utf-8"), re.DOTALL
        )
        head = yaml.safe_load(found[1]) if found else None
        return (
            {str(k): v for k, v in head.items() if isinstance(v, (str, list))}
            if isinstance(head, dict)
            else {}
        )
    return {}
