"""Checks of the proof: identities of the attention, and the ruler that names segments, on clips that are true."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from noria.tryon.proof.learning import Arm, micro_batch, nearest, new_model
from noria.tryon.proof.world.clips import ACTIONS, hand_maps, make_clips, motions
from noria.tryon.training.objective import velocity

if TYPE_CHECKING:
    from noria.core.proofs.proof import Check


def identities() -> list[Check]:
    """A bag of captions gives the same output for swapped captions, and A-RoPE does not."""
    from noria.core.proofs.proof import Check

    clips, changes = make_clips(4, "captions", 0, "train"), {}
    for mode in ("none", "rope"):
        arm = Arm(mode=mode)
        model, outputs = new_model(arm, 0).eval(), []
        for swapped in (False, True):
            given = [_swapped(row) if swapped else row for row in clips.captions]
            batch = micro_batch(clips, range(4), arm, given)
            noisy = torch.randn(batch.clean.shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                outputs.append(velocity(model, batch, noisy, torch.full((4,), 0.5)))
        changes[mode] = float((outputs[0] - outputs[1]).abs().max())
    return [
        Check(
            "bag-identity",
            "Without positions, swapping two captions changes nothing but rounding",
            changes["none"] < 1e-5,
            f"largest difference {changes['none']:.1e}",
        ),
        Check(
            "arope-order",
            "With A-RoPE, swapping two captions changes the output",
            changes["rope"] > 1e-3,
            f"largest difference {changes['rope']:.1e}",
        ),
    ]


def ruler() -> Check:
    """Whether the segments of true held-out clips are named rightly."""
    from noria.core.proofs.proof import Check

    shares = []
    for task in ("captions", "hands"):
        clips = make_clips(48, task, 9, "judge")
        shares.append(float((nearest(clips.videos, clips) == clips.actions).mean()))
    return Check(
        "ruler",
        "Of true clips, at least 98 % of the segments are named rightly",
        min(shares) >= 0.98,
        f"{min(shares):.1%} in the worse task",
    )


def rays() -> Check:
    """Whether hands that touch and hands that hover look the same in two dimensions, and not in depth."""
    from noria.core.proofs.proof import Check

    apart, deeper = 0.0, math.inf
    for name in ACTIONS:
        touching, hovering = (hand_maps(name, contact, 9)[2] for contact in (True, False))
        apart = max(apart, float(np.nanmax(np.abs(touching - hovering))))
        depths = [motions(9)[name, contact].joints[..., 2] for contact in (True, False)]
        deeper = min(deeper, float((depths[0] - depths[1]).min()))
    return Check(
        "same-rays",
        "All 21 joints of a hovering hand are at the pixels of one that touches, and at least 10 cm nearer",
        apart < 0.01 and deeper > 0.1,
        f"{apart:.1e} pixels apart, {deeper:.2f} m nearer",
    )


def _swapped(row: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The captions of a clip with its two actions in the other's place."""
    places = [place for place, caption in enumerate(row) if caption]
    changed = list(row)
    for one, other in zip(places, places[::-1], strict=True):
        changed[one] = row[other]
    return changed
