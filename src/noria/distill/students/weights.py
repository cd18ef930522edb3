"""A student's weights as the world reads them: LoRA merged in, or a change of weights written as LoRA matrices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import CheckpointError, ConfigError

__all__ = ["merged_weights", "student_weights"]


def student_weights(
    network: nn.Module,
    student: nn.Module | Mapping[str, Tensor],
    *,
    lora_scaling: float = 1.0,
    lora_rank: int | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], float | None]:
    """Whole weights of a student, its LoRA matrices, and the share of the weights' change that these hold.

    Args:
        network: network of the base model.
        student: the network, or its tensors by name.
        lora_scaling: α / rank of LoRA matrices given by name.
        lora_rank: rank of matrices to make for a fully trained student; None for none.
        dtype: number format of the weights; the base's when None.

    Raises:
        ConfigError: the scaling is not above 0.
        CheckpointError: the weights are another model's, or not finite.
    """
    if not lora_scaling > 0:
        raise ConfigError(
            f"LoRA scaling {lora_scaling} is not above 0", where="export", mend="use a number above 0"
        )
    original = _bare_weights(network.state_dict())
    matrices = _lora_matrices(student, lora_scaling)
    if not isinstance(student, nn.Module):  # a checkpoint holds what was trained; buffers are the base's
        buffers = {_bare_name(n): b for n, b in network.named_buffers() if _bare_name(n) in original}
        student = buffers | dict(student)
    weights = merged_weights(original, student, matrices, dtype=dtype)
    if matrices or lora_rank is None:
        return weights, matrices, 1.0 if matrices else None
    return weights, *_low_rank_change(original, weights, network, lora_rank)


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
        dtype: number format of the floating weights; each one's own in the base when None.

    Raises:
        CheckpointError: names or shapes are not the base's, or a value is not finite.
    """
    given = (
        original
        if matrices
        else _bare_weights(student.state_dict() if isinstance(student, nn.Module) else student)
    )
    missing, extra = sorted(original.keys() - given.keys()), sorted(given.keys() - original.keys())
    if missing or extra:
        name, fault = (missing[0], "lacks") if missing else (extra[0], "has")
        raise _other_base(
            f"the student {fault} {name!r}, {len(missing) + len(extra)} names differ from the base's"
        )
    unknown = sorted(n for n in matrices if f"{n.rpartition('.lora_')[0]}.weight" not in original)
    if unknown:
        raise _other_base(f"the base has no layer for {unknown[0]!r}")
    weights = {}
    for name, theirs in original.items():
        ours = given[name].detach().to("cpu")
        if ours.shape != theirs.shape:
            raise _other_base(f"{name} has shape {tuple(ours.shape)}, the base's {tuple(theirs.shape)}")
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" in matrices and name.endswith(".weight"):
            a, b = matrices[f"{layer}.lora_A.weight"], matrices[f"{layer}.lora_B.weight"]
            if (b.shape[0], a.shape[1]) != ours.shape:
                made = (b.shape[0], a.shape[1])
                raise _other_base(
                    f"the LoRA of {layer} makes {made}, the base's weight is {tuple(ours.shape)}"
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


def _other_base(what: str) -> CheckpointError:
    return CheckpointError(
        what, where="export", mend="give the base model that the student was distilled from"
    )


def _bare_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names they have in a bare network: no LoRA, no wrapper's prefix."""
    plain = {}
    for name, value in state.items():
        if ".lora_" not in name and not name.startswith("lora_"):
            plain[_bare_name(name)] = value
    return plain


def _bare_name(name: str) -> str:
    """A parameter's name without what wrappers (DDP, torch.compile, peft) add to it."""
    return (
        name.replace("_orig_mod.", "")
        .removeprefix("module.")
        .removeprefix("base_model.model.")
        .replace(".base_layer.", ".")
    )


def _lora_matrices(student: nn.Module | Mapping[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """LoRA matrices as `<layer>.lora_A.weight` and `.lora_B.weight`, float32 on the CPU, the scale already in B."""
    matrices: dict[str, Tensor] = {}
    if isinstance(student, nn.Module):
        for name, module in student.named_modules():
            if "student" in getattr(module, "lora_A", {}):
                layer: Any = module
                scale = float(layer.scaling["student"])
                matrices[f"{_bare_name(name)}.lora_A.weight"] = (
                    layer.lora_A["student"].weight.detach().float().cpu()
                )
                matrices[f"{_bare_name(name)}.lora_B.weight"] = (
                    layer.lora_B["student"].weight.detach().float().cpu() * scale
                )
        return matrices
    for name, value in student.items():
        match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.(lora_[AB])(?:\.student)?\.weight", name)
        if match:
            value = value.detach().float().cpu()
            matrices[f"{match[1]}.{match[2]}.weight"] = value * scaling if match[2] == "lora_B" else value
    unpaired = [n for n in matrices if _partner(n) not in matrices]
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


def _low_rank_change(
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
