"""The trained heads of the small language model that ships with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from noria.mtp.heads.checkpoint import load_head
from noria.mtp.heads.head import MTPHead
from noria.mtp.types import SmallHead


def small_head(backbone: Any, name: SmallHead = "e2e_tv") -> MTPHead:
    """Load a trained head of :func:`noria.core.models.lm.small_lm`.

    Args:
        backbone: the small model.
        name: which head.

    Raises:
        CheckpointError: the backbone is another model.
    """
    return load_head(backbone, Path(str(files("noria.mtp") / "assets" / name)))
