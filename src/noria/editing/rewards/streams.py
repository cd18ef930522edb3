"""Streams: how r_cog and r_vis become advantages, and how many renders that takes.

A row is a rollout. `split` (DDA-Thinker, arXiv 2604.25477) draws a group of rollouts for each stream s, normalised by
itself, A_s,i = (r_s,i − mean r_s) / (std r_s + ε) (eq. 3), and the cognitive group is never rendered; every other rule
draws one group, all of it rendered. Rows of one group share a number; a reward that is NaN is missing, and its row has
no advantage from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from noria.core.errors import ConfigError
from noria.editing.types import PATHS, RULES, Path, Rule

if TYPE_CHECKING:
    from torch import Tensor

Stream: TypeAlias = Literal["cognitive", "visual", "both"]
"""What rewards a row: one path, or both together."""


@dataclass(frozen=True)
class StreamSettings:
    """A rule, and its free settings.

    Attributes:
        rule: how the two rewards are combined.
        cognitive_weight, visual_weight: weights of the rewards under `weighted`, `gdpo` and `split`.
        cognitive_group, visual_group: rollouts a prompt of each stream under `split`; other rules draw both numbers
            together as one group, so that rollouts are equal.
    """

    rule: Rule = "split"
    cognitive_weight: float = 1.0
    visual_weight: float = 1.0
    cognitive_group: int = 8
    visual_group: int = 8

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"no rule {self.rule!r}", where="rule", mend=f"choose from {', '.join(RULES)}")
        if min(self.cognitive_group, self.visual_group) < 1:
            raise ConfigError("a group of less than one rollout", where="cognitive_group, visual_group")
        if not (self.cognitive_weight >= 0 and self.visual_weight >= 0):
            raise ConfigError("a negative weight", where="cognitive_weight, visual_weight")

    @property
    def groups(self) -> list[tuple[Stream, int]]:
        """Groups that are drawn for a prompt: the stream and the number of rollouts of each."""
        if self.rule == "split":
            return [("cognitive", self.cognitive_group), ("visual", self.visual_group)]
        return [("both", self.cognitive_group + self.visual_group)]

    @property
    def rollouts(self) -> int:
        """Rollouts of a prompt."""
        return sum(size for _, size in self.groups)

    @property
    def renders(self) -> int:
        """Editor calls of a prompt, before the cache and the gate."""
        return sum(size for stream, size in self.groups if needs_render(stream))


def needs_render(stream: Stream) -> bool:
    """Whether rows of the stream are rendered."""
    return stream != "cognitive"


def needs_plan_judge(stream: Stream) -> bool:
    """Whether the plans of the stream's rows are judged."""
    return stream != "visual"


def expand(rows: Sequence[Mapping[str, Any]], settings: StreamSettings) -> list[dict[str, Any]]:
    """Repeat each row of a data set once a stream, with its `stream` column: a prompt's groups for a GRPO trainer.

    A trainer draws one number of rollouts for every row, so under `split` both groups are of one size.

    Raises:
        ConfigError: `split` with groups of two sizes.
    """
    sizes = {size for _, size in settings.groups}
    if len(sizes) > 1:
        raise ConfigError(
            "a GRPO trainer draws groups of one size",
            where="cognitive_group, visual_group",
            mend="give both the same number",
        )
    return [dict(row) | {"stream": stream} for row in rows for stream, _ in settings.groups]


def mask_for(stream: Stream, path: Path, value: float | None) -> float | None:
    """A reward as a row of the stream may see it: None for the other stream's path."""
    return value if stream in ("both", path) else None


def stream_advantages(
    rewards: Tensor, group: Tensor, settings: StreamSettings, *, epsilon: float = 1e-4
) -> Tensor:
    """Advantages of rollouts under a rule.

    Args:
        rewards: [rows, 2] r_cog and r_vis; NaN where missing or masked. Under `split` a row has one of them at most.
        group: [rows] group of each row.
        settings: rule and its settings.
        epsilon: ε of (r − mean) / (std + ε).

    Returns:
        [rows]; 0 for a row without what its rule needs: either reward under `split` and `gdpo`, both under every
        other rule.

    Raises:
        ValueError: `rewards` is not [rows, 2].
    """
    import torch

    from noria.core.training.rl import group_advantages

    if rewards.ndim != 2 or rewards.shape[1] != len(PATHS):
        raise ValueError(f"rewards are [rows, 2], not {list(rewards.shape)}")
    if settings.rule in ("split", "gdpo"):
        parts = group_advantages(rewards, group, epsilon=epsilon)
        weights = torch.tensor([settings.cognitive_weight, settings.visual_weight]).to(parts)
        total = (parts * weights).sum(1)
        if settings.rule == "split":
            return total
        present = rewards.isfinite().any(1)
        if int(present.sum()) < 2:
            return torch.zeros_like(total)
        kept = total[present]
        return torch.where(present, (total - kept.mean()) / (kept.std() + epsilon), 0.0)
    return group_advantages(combined(rewards, group, settings), group, epsilon=epsilon)


def combined(rewards: Tensor, group: Tensor, settings: StreamSettings) -> Tensor:
    """One reward [rows] of the two, for the rules that combine before they normalise; NaN where either is missing.

    Raises:
        ValueError: the rule normalises each reward by itself.
    """
    import torch

    cognitive, visual = rewards[:, 0], rewards[:, 1]
    if settings.rule == "sum":
        return cognitive + visual
    if settings.rule == "weighted":
        return settings.cognitive_weight * cognitive + settings.visual_weight * visual
    if settings.rule == "gate":
        return torch.minimum(cognitive, visual)
    if settings.rule != "lexicographic":
        raise ValueError(f"{settings.rule} combines no rewards")
    whole = rewards.isfinite().all(1)
    ranks = torch.full_like(cognitive, torch.nan)
    for number in torch.unique(group):
        rows = (group == number) & whole
        if rows.any():
            # `unique` sorts rows by their first column, then by the second: ranks of the pairs.
            _, rank = torch.unique(rewards[rows], dim=0, return_inverse=True)
            ranks[rows] = rank.to(ranks) / rank.max().clamp(min=1)
    return ranks
