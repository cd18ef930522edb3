"""The calibration with a memory: data sets by name, state that is saved and restored, and a look at the signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noria.core.errors import CheckpointError
from noria.core.training.rl import group_numbers
from noria.routing.rewards.calibration import CalibrationResult, CalibrationState, calibrate
from noria.routing.rewards.config import CalibrationConfig

if TYPE_CHECKING:
    from noria.core.training.trl import Advantages, RewardBatch

__all__ = ["Calibrator", "diagnosis"]


class Calibrator:
    """Calibrates batch after batch, and is an advantage function of `noria.core.training.trl`.

    Args:
        config: settings of the calibration.
        by_component: whether to give advantages by component, for a credit that sends them to different tokens.
    """

    def __init__(self, config: CalibrationConfig, *, by_component: bool = False) -> None:
        self.config, self.by_component = config, by_component
        self.names: list[str] = []
        self.state = CalibrationState.empty()
        self.last: dict[str, float] = {}

    def calibrate(
        self,
        rewards: Tensor,
        group: Tensor,
        dataset: Sequence[str],
        *,
        names: Sequence[str],
        update: bool = True,
        lengths: Tensor | None = None,
    ) -> CalibrationResult:
        """`noria.routing.rewards.calibration.calibrate`, with data sets by name; a new name is a new data set."""
        numbers = {name: number for number, name in enumerate(self.names)}
        for name in dataset:
            numbers.setdefault(name, len(numbers))
        result = calibrate(
            rewards,
            group,
            torch.tensor([numbers[name] for name in dataset], dtype=torch.long, device=rewards.device),
            names=names,
            config=self.config,
            state=self.state,
            update=update,
            lengths=lengths,
        )
        if update:
            self.names, self.state = list(numbers), result.state
        return result

    def __call__(self, batch: RewardBatch) -> Advantages:
        """Advantages of a batch of TRL's; the reward functions' names are the components'."""
        from noria.core.training.trl import Advantages

        result = self.calibrate(
            batch.rewards, batch.group, batch.dataset, names=batch.names, update=batch.training
        )
        self.last = diagnosis(result, batch.group, batch.dataset, batch.names)
        metrics = {f"calibration/{name}": value for name, value in self.last.items()}
        return Advantages(result.parts if self.by_component else result.advantages, metrics)

    def state_dict(self) -> dict[str, Any]:
        """Memory of the data sets, JSON values only."""
        return {"datasets": list(self.names), **self.state.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory of the data sets.

        Raises:
            CheckpointError: it is no state, or has another number of data sets.
        """
        loaded = CalibrationState.from_dict(state)
        names = state.get("datasets")
        if not isinstance(names, list) or len(names) != len(loaded.sigma):
            raise CheckpointError("the data sets and their state differ in number", where="calibration")
        self.names, self.state = [str(name) for name in names], loaded


def diagnosis(
    result: CalibrationResult, group: Tensor, dataset: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    """Take a batch's learning signal apart.

    Returns:
        `share/K`: of component K in Σ|A[k]|; `eligible/K`: of rows; `conflict`: rows in which two components pull in
        opposite directions; `dead`: groups without a signal; `weight_mean`, `weight_min`, `weight_max`: of the
        variance weight; `trivial`: what groups with a single row on one side have of Σ A²; for each data set D,
        `rows/D`: of rows, `energy/D`: of Σ A², `weight/D`: the mean variance weight, and `dead/D`. A share of nothing
        is NaN.
    """
    # Not every device has doubles.
    parts, advantages = result.parts.cpu().double(), result.advantages.cpu().double()
    qualified, alive, weights = result.eligible.cpu(), result.alive.cpu(), result.weight.cpu()
    group = group.cpu()
    size = parts.abs().sum(0)
    figures = {f"share/{name}": _ratio(size[k], size.sum()) for k, name in enumerate(names)}
    figures |= {f"eligible/{n}": float(qualified[:, k].double().mean()) for k, n in enumerate(names)}
    pulls = (parts > 1e-12).any(1) & (parts < -1e-12).any(1)
    figures["conflict"] = _ratio(pulls.sum(), (parts.abs() > 1e-12).any(1).sum())
    sets = list(dict.fromkeys(dataset))
    number = torch.tensor([sets.index(name) for name in dataset], dtype=torch.long)
    index, groups = group_numbers(group_numbers(group)[0] * max(1, len(sets)) + number)
    lively = torch.zeros(groups, dtype=torch.bool)
    lively[index[alive]] = True
    figures["dead"] = _ratio((~lively).sum(), torch.tensor(groups))
    figures |= {
        f"weight_{what}": float(getattr(weights, what)()) if len(weights) else float("nan")
        for what in ("mean", "min", "max")
    }
    energy = advantages**2
    sign = torch.zeros(groups, 2, dtype=torch.float64)
    for column, side in enumerate((advantages > 0, advantages < 0)):
        sign[:, column].index_add_(0, index, side.double())
    lonely = (sign.amin(1) == 1)[index]
    figures["trivial"] = _ratio(energy[lonely].sum(), energy.sum())
    of = torch.zeros(groups, dtype=torch.long).index_copy_(0, index, number)
    for d, name in enumerate(sets):
        here = number == d
        figures[f"rows/{name}"] = float(here.double().mean())
        figures[f"energy/{name}"] = _ratio(energy[here].sum(), energy.sum())
        figures[f"weight/{name}"] = float(weights[here].double().mean())
        figures[f"dead/{name}"] = _ratio((~lively[of == d]).sum(), (of == d).sum())
    return figures


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part) / float(whole) if float(whole) else float("nan")
