"""What the transformer sees beside noise: video, mask and garments packed as VACE packs them, hands as latents.

The packing is that of diffusers' `WanVACEPipeline`, for batches too. How try-on maps onto it is reconstructed: the
garment region is grey, the pose is painted inside of it, and garments are reference images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noria.tryon.attention.segments import latent_frames
from noria.tryon.pipeline.book import ChunkSegments
from noria.tryon.video.framing import GRID


@dataclass(frozen=True)
class Conditions:
    """Inputs of a batch of clips of one size.

    Attributes:
        video: clips with the pose painted in where the garment was `[batch, 3, frames, height, width]`, in -1 .. 1.
        mask: 1 where to generate `[batch, 1, frames, height, width]`.
        garments: pictures of each clip's garments `[3, height, width]` in -1 .. 1, as many for each clip.
        prompts: caption of each clip.
        segments: actions of each clip; None where no clip has any.
        hands: drawn hands `[batch, 3, frames, height, width]`, or None.
        hands_where: where a hand is `[batch, frames, height, width]`, or None.
    """

    video: Tensor
    mask: Tensor
    garments: Sequence[Sequence[Tensor]]
    prompts: Sequence[str]
    segments: Sequence[ChunkSegments] | None = None
    hands: Tensor | None = None
    hands_where: Tensor | None = None

    def __post_init__(self) -> None:
        batch, _, frames, height, width = self.video.shape
        latent_frames(frames)
        if height % GRID or width % GRID:
            raise ValueError(f"a frame of {height}x{width}; sides are multiples of {GRID}")
        if self.mask.shape != (batch, 1, frames, height, width):
            raise ValueError(f"mask {list(self.mask.shape)} and video {list(self.video.shape)} do not agree")
        if len(self.garments) != batch or len(self.prompts) != batch:
            raise ValueError(
                f"{len(self.garments)} garments and {len(self.prompts)} prompts for {batch} clips"
            )
        if len({len(views) for views in self.garments}) > 1:
            raise ValueError("each clip of a batch has the same number of garment pictures")
        if self.hands is not None and (self.hands_where is None or self.hands.shape != self.video.shape):
            raise ValueError("hands have the video's shape, and come with where they are")

    @property
    def references(self) -> int:
        """Number of garment pictures of each clip."""
        return len(self.garments[0])


Device = torch.device | str | None


def encode(vae: Any, video: Tensor, device: Device = None) -> Tensor:
    """Normalised latents `[batch, channels, latent frames, height/8, width/8]` of a video in -1 .. 1, in float32.

    Args:
        vae: the autoencoder.
        video: the video.
        device: where the autoencoder computes; its own by default. An offloaded one is elsewhere until it is called.
    """
    posterior = vae.encode(video.to(device or vae.device, vae.dtype)).latent_dist
    mean, deviation = statistics(vae, posterior.mean.device)
    return (posterior.mode().float() - mean) / deviation  # type: ignore[no-any-return]


def decode(vae: Any, latents: Tensor) -> Tensor:
    """The video in -1 .. 1 of normalised latents, in float32."""
    mean, deviation = statistics(vae, latents.device)
    video = vae.decode((latents.float() * deviation + mean).to(vae.dtype), return_dict=False)[0]
    return video.float().clamp(-1, 1)  # type: ignore[no-any-return]


def statistics(vae: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents' channels, which broadcast over `[batch, channels, frames, height, width]`."""
    both = (vae.config.latents_mean, vae.config.latents_std)
    mean, deviation = (torch.tensor(v, device=device).view(1, -1, 1, 1, 1) for v in both)
    return mean, deviation


def control_latents(vae: Any, given: Conditions, device: Device = None) -> Tensor:
    """VACE's 96 channels: what stays, what is to be generated, and the mask, with the garments as leading frames.

    Returns:
        `[batch, 96, references + latent frames, height/8, width/8]` in float32.
    """
    mask = (given.mask > 0.5).to(given.video)
    kept, open_ = encode(vae, given.video * (1 - mask), device), encode(vae, given.video * mask, device)
    latents = torch.cat([kept, open_, mask_latents(mask).to(kept)], dim=1)
    for place in range(given.references):
        views = torch.stack([on_canvas(views[place], given.video.shape[-2:]) for views in given.garments])
        picture = encode(vae, views[:, :, None].to(given.video), device)
        padding = picture.new_zeros(len(picture), latents.shape[1] - picture.shape[1], *picture.shape[2:])
        latents = torch.cat([torch.cat([picture, padding], dim=1), latents], dim=2)
    return latents


def mask_latents(mask: Tensor, block: int = 8) -> Tensor:
    """The mask as 64 channels, one for each pixel of a block: `[batch, 64, latent frames, height/8, width/8]`."""
    batch, _, frames, height, width = mask.shape
    blocks = mask[:, 0].reshape(batch, frames, height // block, block, width // block, block)
    blocks = blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 2)
    size = (latent_frames(frames), height // block, width // block)
    return torch.nn.functional.interpolate(blocks, size=size, mode="nearest-exact")


def on_canvas(picture: Tensor, size: Sequence[int]) -> Tensor:
    """A picture `[3, height, width]` scaled to fit into the middle of a white canvas."""
    height, width = picture.shape[1:]
    share = min(size[0] / height, size[1] / width)
    inner = max(1, int(height * share)), max(1, int(width * share))
    scaled = torch.nn.functional.interpolate(picture[None], size=inner, mode="bilinear", align_corners=False)[
        0
    ]
    canvas = picture.new_ones(3, *size)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[:, top : top + inner[0], left : left + inner[1]] = scaled
    return canvas


def hand_latents(vae: Any, hands: Tensor, where: Tensor, device: Device = None) -> Tensor:
    """Latents of drawn hands, and where they are as a last channel `[batch, 17, latents, height/8, width/8]`."""
    latents, block = encode(vae, hands, device), 8
    seen = where.float()[:, None]
    first = torch.nn.functional.max_pool3d(seen[:, :, :1], (1, block, block))
    rest = (
        torch.nn.functional.max_pool3d(seen[:, :, 1:], (4, block, block))
        if seen.shape[2] > 1
        else first[:, :, :0]
    )
    return torch.cat([latents, torch.cat([first, rest], dim=2).to(latents)], dim=1)
