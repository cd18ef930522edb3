"""Flow matching: the σ contract, Euler integration, moving averages, and the small transformer of the proofs.

Conventions used everywhere in Noria (rectified flow, Liu et al. 2022, arXiv 2209.03003):

    x_σ = (1 − σ) x₀ + σ ε        σ = 0 is data, σ = 1 is noise
    v   = ε − x₀                  the velocity dx/dσ
    x̂₀  = x_σ − σ v               the clean estimate

Every σ that a Noria trainer handles is *true*, that is, already shifted. A list a user types, or that a
diffusers pipeline takes as `sigmas=`, is *pre-shift*. :class:`SigmaContract` is the only place where the two meet.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError


def expand_like(sigma: Tensor, x: Tensor) -> Tensor:
    """Append axes of size one to `sigma` [batch], so that it broadcasts against `x` [batch, ...]."""
    return sigma.reshape(sigma.shape[0], *([1] * (x.ndim - 1)))


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_σ = (1 − σ) x₀ + σ ε, for `clean` and `noise` [batch, ...] and `sigma` [batch]."""
    s = expand_like(sigma, clean)
    return (1 - s) * clean + s * noise


def clean_estimate(x: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """x̂₀ = x_σ − σ v, for `x` and `velocity` [batch, ...] and `sigma` [batch]."""
    return x - expand_like(sigma, x) * velocity


@dataclass(frozen=True)
class SigmaContract:
    """The map of a model's scheduler from the σ that a user gives to the σ that the network sees.

    All shifts of the flow-matching family are one Möbius map with one number s (`shift`):

        σ' = s σ / (1 + (s − 1) σ)

    A static `shift` is s itself, the exponential resolution-dependent shift is s = e^μ, the linear one is s = μ.

    Attributes:
        shift: s > 0; 1 leaves σ as it is.
        train_timesteps: factor between σ and the scheduler's timesteps.
    """

    shift: float = 1.0
    train_timesteps: int = 1000

    def __post_init__(self) -> None:
        if not (math.isfinite(self.shift) and self.shift > 0):
            raise ConfigError(
                f"the σ shift is {self.shift}",
                where="scheduler",
                mend="it must be a finite number above 0 (1 means none)",
            )

    def shifted(self, sigma: Tensor) -> Tensor:
        """Pre-shift σ to true σ; any shape, values in [0, 1]."""
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def unshifted(self, sigma: Tensor) -> Tensor:
        """True σ to pre-shift σ, the inverse of :meth:`shifted`."""
        return sigma / (self.shift - (self.shift - 1) * sigma)

    def grid(self, pre_shift: Sequence[float]) -> Tensor:
        """The true σ grid [steps + 1] of a pre-shift list, with the final 0 appended.

        Raises:
            ConfigError: the list is empty, leaves (0, 1], or is not strictly decreasing.
        """
        values = [float(s) for s in pre_shift]
        if not values:
            raise ConfigError("the σ grid is empty", mend="give at least one value in (0, 1], such as [1.0]")
        for s in values:
            if not 0 < s <= 1:
                raise ConfigError(f"σ = {s} leaves (0, 1]", where="σ grid", mend="keep every value in (0, 1]")
        if any(b >= a for a, b in itertools.pairwise(values)):
            raise ConfigError(
                f"the σ grid {values} does not fall strictly", mend="sort it from noise (1) to data (0)"
            )
        true = self.shifted(torch.tensor(values, dtype=torch.float64)).float()
        return torch.cat([true, torch.zeros(1)])

    @classmethod
    def from_scheduler(cls, config: Mapping[str, Any], *, mu: float | None = None) -> SigmaContract:
        """Make the contract of a diffusers flow-matching scheduler.

        `shift_terminal` is not part of the contract: it stretches a grid by its last entry, which would turn the last
        of four steps into a near-zero one. A student's scheduler is therefore exported without it.

        Args:
            config: config of the scheduler, `pipeline.scheduler.config`.
            mu: resolution-dependent μ, where the scheduler shifts dynamically.

        Raises:
            ConfigError: the scheduler re-spaces σ (Karras, exponential, beta), inverts it, or needs a `mu`.
        """
        for flag in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas"):
            if config.get(flag):
                raise ConfigError(
                    f"the scheduler has {flag} on, which moves a given σ grid",
                    where="scheduler config",
                    mend=f"set {flag} to false in scheduler_config.json",
                )
        steps = int(config.get("num_train_timesteps", 1000))
        if not config.get("use_dynamic_shifting"):
            return cls(float(config.get("shift", 1.0)), steps)
        if mu is None:
            raise ConfigError(
                "the scheduler shifts σ by resolution but no μ was given",
                where="scheduler config",
                mend="pass mu (the pipeline's calculate_shift of the image's token count)",
            )
        linear = config.get("time_shift_type", "exponential") == "linear"
        return cls(mu if linear else math.exp(mu), steps)

    def check(self, scheduler: Any, *, mu: float | None = None, tolerance: float = 1e-5) -> None:
        """Compare the grid that an installed diffusers scheduler makes with this contract's.

        Raises:
            ConfigError: they differ, so that some shift would be applied twice or not at all.
        """
        pre = [1.0, 0.875, 0.75, 0.5, 0.25, 0.125]
        scheduler.set_timesteps(sigmas=pre, **({} if mu is None else {"mu": mu}))
        theirs = torch.as_tensor(scheduler.sigmas, dtype=torch.float32).cpu()
        ours = self.grid(pre)
        timesteps = torch.as_tensor(scheduler.timesteps, dtype=torch.float32).cpu() / self.train_timesteps
        if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=tolerance):
            raise ConfigError(
                f"the scheduler turns σ {pre} into {[round(float(s), 4) for s in theirs[:-1]]}, "
                f"the trainer into {[round(float(s), 4) for s in ours[:-1]]}",
                where=type(scheduler).__name__,
                mend="one of them shifts twice; build the contract with SigmaContract.from_scheduler",
            )
        if not torch.allclose(timesteps, ours[:-1], atol=tolerance):
            raise ConfigError(
                "the scheduler's timesteps are not σ times its number of training timesteps",
                where=type(scheduler).__name__,
                mend="use a FlowMatchEulerDiscreteScheduler",
            )


def euler(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    """Integrate dx/dσ = v(x, σ) along a grid by Euler steps.

    Args:
        velocity: maps (x [batch, ...], sigma [batch]) to the velocity, of the shape of x.
        x: start of the path, at `sigmas[0]`.
        sigmas: true σ [steps + 1], decreasing; the last is usually 0.
    """
    sigmas = sigmas.to(x.device, torch.float32)
    for now, then in itertools.pairwise(sigmas):
        x = x + (then - now) * velocity(x, now.expand(x.shape[0]))
    return x


class Ema:
    """Exponential moving average of parameters with the warm-up d_n = min((1 + n) / (10 + n), decay).

    The averages have the device, sharding and order of the parameters, in float32.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float = 0.999) -> None:
        self.parameters = list(parameters)
        self.average = [p.detach().float().clone() for p in self.parameters]
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages for the n-th time, n = 1, 2, …: ema ← ema + (1 − d_n) (θ − ema)."""
        self.updates += 1
        decay = min((1 + self.updates) / (10 + self.updates), self.decay)
        torch._foreach_lerp_(self.average, [p.detach().float() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and live parameters; a second call undoes it exactly (float32 parameters)."""
        for mean, p in zip(self.average, self.parameters, strict=True):
            live = p.detach().float().clone()
            p.copy_(mean)
            mean.copy_(live)


@dataclass(frozen=True)
class SmallTransformerConfig:
    """Shape of a :class:`SmallTransformer`."""

    image_size: int = 8
    channels: int = 1
    patch: int = 2
    width: int = 64
    blocks: int = 3
    heads: int = 4
    classes: int = 10


class _Block(nn.Module):
    """Pre-norm attention and MLP, modulated by the conditioning vector and gated from zero (adaLN-zero)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        h = torch.addcmul(shift1, self.norm(x), 1 + scale1)
        q, k, v = (
            self.to_qkv(h).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        h = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = torch.addcmul(x, gate1, self.to_out(h))
        h = torch.addcmul(shift2, self.norm(x), 1 + scale2)
        out: Tensor = torch.addcmul(x, gate2, self.down(nn.functional.gelu(self.up(h), approximate="tanh")))
        return out


class SmallTransformer(nn.Module):
    """A class-conditional diffusion transformer for proofs on a CPU (adaLN-zero; Peebles & Xie 2023, arXiv 2212.09748).

    It predicts the velocity. Class `config.classes` is the null condition. `source_sigma` optionally tells a critic at
    which σ the sample it sees was predicted; its embedding starts at zero, so that a network copied from a teacher that
    never used it behaves exactly like the teacher.
    """

    def __init__(self, config: SmallTransformerConfig) -> None:
        super().__init__()
        if config.image_size % config.patch or config.width % (2 * config.heads):
            raise ConfigError(
                f"image size {config.image_size} / patch {config.patch} or width {config.width} / heads {config.heads} "
                "do not divide",
                where="SmallTransformerConfig",
                mend="choose a patch that divides the image and twice the heads that divide the width",
            )
        self.config = config
        side, width = config.image_size // config.patch, config.width
        self.patchify = nn.Linear(config.channels * config.patch**2, width)
        self.position = nn.Parameter(torch.randn(1, side * side, width) * 0.02)
        self.register_buffer(
            "frequencies", torch.exp(torch.linspace(0, math.log(1000.0), width // 2)), persistent=False
        )
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.source = nn.Linear(width, width)
        self.label = nn.Embedding(config.classes + 1, width)
        self.blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.unpatchify = nn.Linear(width, config.channels * config.patch**2)
        for layer in (self.source, self.modulation, self.unpatchify):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _waves(self, sigma: Tensor) -> Tensor:
        angles = sigma.float()[:, None] * self.get_buffer("frequencies")
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.position.dtype)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor, source_sigma: Tensor | None = None) -> Tensor:
        """Velocity at `x`.

        Args:
            x: [batch, channels, height, width].
            sigma: true σ [batch].
            labels: class numbers [batch]; `config.classes` means no condition.
            source_sigma: σ [batch] at which the clean image of x was predicted, for an anchor-conditioned critic.
        """
        c, p = self.config, self.config.patch
        side = c.image_size // p
        h = (
            x.reshape(-1, c.channels, side, p, side, p)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(x.shape[0], side * side, -1)
        )
        h = self.patchify(h) + self.position
        condition = self.time(self._waves(sigma)) + self.label(labels)
        if source_sigma is not None:
            condition = condition + self.source(self._waves(source_sigma))
        condition = nn.functional.silu(condition)
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        h = self.unpatchify(torch.addcmul(shift, self.norm(h), 1 + scale))
        h = h.reshape(-1, side, side, c.channels, p, p).permute(0, 3, 1, 4, 2, 5)
        out: Tensor = h.reshape(x.shape)
        return out
