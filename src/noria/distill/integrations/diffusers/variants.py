"""Variants of weight files: `model.fp16.safetensors` beside `model.safetensors`, or instead of it."""

from __future__ import annotations

import re
from pathlib import Path

_SHARD = r"-\d+-of-\d+"
_WEIGHTS = re.compile(
    rf"(?P<stem>model|diffusion_pytorch_model)(?P<old>{_SHARD})?(\.(?P<variant>\w+))?(?P<new>{_SHARD})?\.safetensors"
)
_INDEX = re.compile(
    r"(?P<stem>model|diffusion_pytorch_model)\.safetensors(\.(?P<old>\w+))?\.index(\.(?P<new>\w+))?\.json"
)


def plain_name(name: str) -> tuple[str, str | None] | None:
    """Name that a file of weights, or their index, has without its variant, and the variant; None for other files.

    >>> plain_name("model.fp16-00001-of-00002.safetensors")
    ('model-00001-of-00002.safetensors', 'fp16')
    >>> plain_name("model.safetensors.index.fp16.json")
    ('model.safetensors.index.json', 'fp16')
    """
    if found := _WEIGHTS.fullmatch(name):
        shard = found["old"] or found["new"] or ""
        return f"{found['stem']}{shard}.safetensors", found["variant"]
    if found := _INDEX.fullmatch(name):
        return f"{found['stem']}.safetensors.index.json", found["old"] or found["new"]
    return None


def weight_sets(component: Path) -> set[str | None]:
    """Variants that a component has weights of, None for the plain ones; empty where it has no weights."""
    names = [plain_name(path.name) for path in component.glob("*") if path.is_file()]
    return {name[1] for name in names if name is not None and name[0].endswith(".safetensors")}
