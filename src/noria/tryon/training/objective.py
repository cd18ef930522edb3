"""The training objective: flow matching on the latents of a batch, with the action-aware constraint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from noria.core.models.flow import interpolate
from noria.tryon.attention.constraint import constrained_loss
from noria.tryon.pipeline.captions import ActionTokens


@dataclass(frozen=True)
class Batch:
    """Clips of one size, as the transformer takes them.

    Attributes:
        clean: latents, leading reference frames included `[batch, channels, references + frames, height, width]`.
        control: VACE's control `[batch, 96, references + frames, height, width]`.
        text: encoded captions of whole clips `[batch, tokens, width]`.
        acting: 1 on frames with an action, 0 on others and on references `[batch, references + frames]`.
        references: number of reference frames.
        actions: encoded captions of actions, or None.
        hands: hand latents `[batch, channels, frames, height, width]`, or None.
        hand_scale: strength of each clip's hands `[batch]`: 0 for one without; None is 1 for all.
    """

    clean: Tensor
    control: Tensor
    text: Tensor
    acting: Tensor
    references: int = 0
    actions: ActionTokens | None = None
    hands: Tensor | None = None
    hand_scale: Tensor | None = None


def draw_sigmas(
    number: int,
    generator: torch.Generator,
    law: Literal["logit_normal", "uniform"],
    shift: float = 1.0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Noise levels: the logistic of a normal draw, or uniform, then `s sigma / (1 + (s - 1) sigma)`.

    Args:
        number: number of levels.
        generator: source of the draws.
        law: law before the shift.
        shift: factor s.
        bounds: least and greatest level; the law is conditioned on them, by the inverse of its distribution.

    Returns:
        Levels in the bounds `[number]`.
    """
    if bounds != (0.0, 1.0):
        low, high = (torch.tensor(b / (shift - (shift - 1) * b), dtype=torch.float64) for b in bounds)
        if law == "logit_normal":
            low, high = (torch.special.ndtr(level.logit()) for level in (low, high))
        share = torch.rand(number, generator=generator, dtype=torch.float64)
        inside = low + share * (high - low)
        sigmas = (torch.special.ndtri(inside).sigmoid() if law == "logit_normal" else inside).float()
    elif law == "logit_normal":
        sigmas = torch.randn(number, generator=generator).sigmoid()
    else:
        sigmas = torch.rand(number, generator=generator)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def drop(batch: Batch, generator: torch.Generator, empty: Tensor, *, text: float, hands: float) -> Batch:
    """Leave out the captions of a share of the clips, and the hands of another, so that both can be guided.

    Args:
        batch: the clips.
        generator: draws which clips lose what.
        empty: encoded empty caption `[tokens, width]`, which takes the place of a caption; its actions go with it, and
            its frames stand where those of a clip without actions do.
        text: share of clips that lose their captions.
        hands: share of clips that lose their hands.
    """
    number = len(batch.clean)
    keep_text = torch.rand(number, generator=generator) >= text
    keep_hands = torch.rand(number, generator=generator) >= hands
    kept = keep_text.view(-1, 1, 1).to(batch.text.device)
    changed: dict[str, Any] = {"text": torch.where(kept, batch.text, empty.to(batch.text))}
    if batch.actions is not None:
        acting = keep_text.view(-1, 1).to(batch.actions.mask.device)
        changed["actions"] = batch.actions._replace(
            mask=batch.actions.mask & acting, queries=batch.actions.queries * acting
        )
    if batch.hands is not None:
        scale = torch.ones(number) if batch.hand_scale is None else batch.hand_scale.cpu()
        changed["hand_scale"] = (scale * keep_hands).to(batch.hands)
    return replace(batch, **changed)


def velocity(model: Any, batch: Batch, noisy: Tensor, sigmas: Tensor) -> Tensor:
    """The model's velocity at true noise levels, in float32."""
    tokens = None if batch.hands is None else model.encode_hands(batch.hands, batch.references)
    extra = {} if batch.actions is None else batch.actions.arguments()
    result = model(
        hidden_states=noisy.to(model.dtype),
        timestep=1000 * sigmas,
        encoder_hidden_states=batch.text,
        control_hidden_states=batch.control,
        hand_tokens=tokens,
        hand_scale=1.0 if batch.hand_scale is None else batch.hand_scale,
        return_dict=False,
        **extra,
    )[0]
    return result.float()  # type: ignore[no-any-return]


def flow_loss(
    model: Any,
    batch: Batch,
    sigmas: Tensor,
    noise: Tensor,
    *,
    weight: float = 0.5,
    normalize: Literal["all", "masked"] = "all",
    acting_frames: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """`mean |v' - v|^2 + weight mean |M (v' - v)|^2` with `v = noise - clean`, and figures of it.

    Args:
        model: the transformer.
        batch: the clips.
        sigmas: true noise levels `[batch]`.
        noise: noise of the latents' shape.
        weight: lambda of the action-aware constraint.
        normalize: divisor of its term.
        acting_frames: frames with an action that `masked` divides by; those of the batch by default.

    Returns:
        The loss, and the mean square on frames with an action and without; a kind that no clip has is left out.
    """
    noisy, target = interpolate(batch.clean, noise, sigmas), noise - batch.clean
    predicted = velocity(model, batch, noisy, sigmas)
    loss = constrained_loss(predicted, target, batch.acting, weight, normalize, acting_frames)
    with torch.no_grad():
        frames = (predicted - target).square().mean(dim=(1, 3, 4))[:, batch.references :]
        acting = batch.acting[:, batch.references :].bool()
        kinds = {"acting": frames[acting], "idle": frames[~acting]}
        figures = {name: float(values.mean()) for name, values in kinds.items() if len(values)}
    return loss, figures
