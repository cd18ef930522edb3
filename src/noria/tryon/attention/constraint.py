"""The action-aware constraint: frames in which the person handles the garment weigh more in the loss."""

from __future__ import annotations

from typing import Literal

from torch import Tensor


def constrained_loss(
    predicted: Tensor,
    target: Tensor,
    acting: Tensor,
    weight: float = 0.5,
    normalize: Literal["all", "masked"] = "all",
    acting_frames: float | None = None,
) -> Tensor:
    """`mean |v' - v|^2 + weight * mean |M (v' - v)|^2` (paper, AC loss, lambda = 0.5).

    Args:
        predicted: velocities `[batch, channels, frames, height, width]`.
        target: velocities of the same shape.
        acting: 1 on latent frames with an action, else 0: `[batch, frames]`.
        weight: lambda.
        normalize: `all` divides the second term by all elements, as the paper writes it, so that a clip with more
            action weighs more; `masked` divides by the elements under the mask, and adds nothing where there are none.
        acting_frames: frames with an action that `masked` divides by; those of `acting` by default. A process that
            holds a part of a batch divides by the mean over all parts, so that the mean of the losses is the batch's.

    Returns:
        The loss, a float32 scalar.
    """
    squares = (predicted.float() - target.float()).square()
    frames = squares.mean(dim=(1, 3, 4))
    mask = acting.to(frames)
    if mask.shape != frames.shape:
        raise ValueError(f"acting is {list(mask.shape)}, and the velocities have {list(frames.shape)} frames")
    if normalize == "all":
        share = float(mask.numel())
    else:
        share = (float(mask.sum()) if acting_frames is None else acting_frames) or 1.0
    return frames.mean() + weight * (frames * mask).sum() / share
