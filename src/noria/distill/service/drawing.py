"""Drawing for many callers: pictures that wait are drawn together.

Picture k of a request starts from the noise of (seed, k), so a seed gives the same picture in whatever batch it is
drawn, up to the last bits of the batched arithmetic.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noria.core.errors import DataError, DivergenceError
from noria.distill.adapters import Sampler
from noria.distill.evaluation.grids import Grid, starting_noise
from noria.distill.evaluation.views import thumbnails
from noria.distill.types import Role

LONGEST_PROMPT = 4000
"""Most characters of a prompt."""


@dataclass(frozen=True)
class Painter:
    """A drawing model in a role, its noise levels and its guidance.

    Attributes:
        sampler: model.
        grid: noise levels of the steps.
        role: network that draws.
        guidance: classifier-free guidance of a teacher; 1 for a student.
    """

    sampler: Sampler
    grid: Grid
    role: Role = "student"
    guidance: float = 1.0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its pictures in pixels: those of a blank latent, decoded."""
        blank = torch.zeros(1, *self.sampler.adapter.latent_shape)
        with torch.no_grad():
            height, width = self.sampler.adapter.decode(blank).shape[-2:]
        return int(width), int(height)

    def draw(self, prompts: Sequence[str], noise: Tensor) -> list[bytes]:
        """A PNG file for each prompt.

        Args:
            prompts: [n] prompts.
            noise: [n, *latent] starting noise.

        Raises:
            DataError: a prompt that the model does not know.
            DivergenceError: a picture is not finite.
        """
        sigmas = torch.tensor(self.grid.sigmas)
        latents = self.sampler.sample(prompts, noise, sigmas, role=self.role, guidance=self.guidance)
        if not bool(latents.isfinite().all()):
            raise DivergenceError("a picture is not finite", mend="use an earlier checkpoint")
        with torch.no_grad():
            images = torch.cat([self.sampler.adapter.decode(one[None]) for one in latents.float()])
        return [_png(pixels) for pixels in thumbnails(images, max(images.shape[-2:]))]

    def noise(self, seed: int, numbers: Sequence[int]) -> Tensor:
        """Starting noise of pictures [n, *latent]."""
        return starting_noise(self.sampler.adapter.latent_shape, numbers, seed)


@dataclass(frozen=True)
class Wish:
    """A picture that is waited for.

    Attributes:
        prompt: description of the picture.
        seed: seed of the request.
        number: number of the picture in its request.
    """

    prompt: str
    seed: int
    number: int


def draw_all(painter: Painter, wishes: Sequence[Wish]) -> list[bytes]:
    """The pictures of some wishes, drawn together.

    Raises:
        NoriaError: one cannot be drawn.
    """
    noise = torch.cat([painter.noise(one.seed, [one.number]) for one in wishes])
    return painter.draw([one.prompt for one in wishes], noise)


def check_prompt(prompt: str) -> None:
    """Check the length of a prompt.

    Raises:
        DataError: it is too long.
    """
    if len(prompt) > LONGEST_PROMPT:
        raise DataError(f"more than {LONGEST_PROMPT:,} characters", where="prompt")


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()
