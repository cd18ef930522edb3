"""A student's weights as the world reads them: LoRA merged in, or a change of weights written as LoRA matrices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import CheckpointError

__all__ = ["bare_name", "bare_weights", "lora_matrices", "low_rank_change", "merged_weights"]


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
        matrices: LoRA matrices as :func:`lora_matrices` gives them; empty for a full student.
        dtype: number format of the floating weights; each one's own in the base when None.

    Raises:
        CheckpointError: names or shapes are not the base's, or a value is not finite.
    """
    given = (
        original
        if matrices
        else bare_weights(student.state_dict() if isinstance(student, nn.Module) else student)
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


def bare_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names they have in a bare network: no LoRA, no wrapper's prefix."""
    plain = {}
    for name, value in state.items():
        if ".lora_" not in name and not name.startswith("lora_"):
            plain[bare_name(name)] = value
    return plain


def bare_name(name: str) -> str:
    """A parameter's name without what wrappers (DDP, torch.compile, peft) add to it."""
    return (
        name.replace("_orig_mod.", "")
        .removeprefix("module.")
        .removeprefix("base_model.model.")
        .replace(".base_layer.", ".")
    )


def lora_matrices(student: nn.Module | Mapping[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """LoRA matrices as `<layer>.lora_A.weight` and `.lora_B.weight`, float32 on the CPU, the scale already in B."""
    matrices: dict[str, Tensor] = {}
    if isinstance(student, nn.Module):
        for name, module in student.named_modules():
            if "student" in getattr(module, "lora_A", {}):
                layer: Any = module
                scale = float(layer.scaling["student"])
                matrices[f"{bare_name(name)}.lora_A.weight"] = (
                    layer.lora_A["student"].weight.detach().float().cpu()
                )
                matrices[f"{bare_name(name)}.lora_B.weight"] = (
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


def low_rank_change(
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
