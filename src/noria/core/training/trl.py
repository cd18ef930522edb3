"""The one bridge to TRL: its GRPO trainer, with advantages and a credit of tokens of one's own.

TRL sums rewards before anything else can see them, and gives every token of a completion the same advantage. Here an
`AdvantageFunction` gets the rewards of all ranks by component, and a `TokenCredit` says which tokens earn them. Both
are plugs, and two systems that bring one each work together without knowing each other.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from noria.core.errors import CheckpointError, ConfigError, needing
from noria.core.files import write_atomic
from noria.core.training.rl import credited

with needing("trl"):
    from accelerate.utils import gather_object
    from transformers import TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import GRPOTrainer

__all__ = [
    "AdvantageFunction",
    "Advantages",
    "ComponentGRPOTrainer",
    "RewardBatch",
    "TokenBatch",
    "TokenCredit",
]


@dataclass(frozen=True)
class RewardBatch:
    """The rewards of one generation, of all ranks, in the same order on every rank.

    Attributes:
        rewards: [rows, components]; NaN where a reward function gave None.
        names: names of the components, in order.
        group: [rows] which prompt.
        dataset: [rows] which data set; "" where the data does not say.
        training: False in an evaluation, which must not change anything.
        step: the trainer's step.
    """

    rewards: Tensor
    names: tuple[str, ...]
    group: Tensor
    dataset: tuple[str, ...]
    training: bool
    step: int


@dataclass(frozen=True)
class Advantages:
    """What an advantage function answers: `values` [rows] or [rows, components], and `metrics` for the log."""

    values: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)


AdvantageFunction = Callable[[RewardBatch], Advantages]
"""It runs on every rank on the same rows, so whatever it remembers stays the same on all."""


@runtime_checkable
class Remembering(Protocol):
    """An advantage function that remembers: its state, JSON values only, is kept with each checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember that instead."""
        ...


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of one rank's completions.

    Attributes:
        prompt_ids, prompt_mask: [rows, prompt tokens], padded on the left.
        completion_ids: [rows, tokens], padded on the right.
        mask: [rows, tokens] bool: written by the policy, not by a tool and no padding.
        advantages: [rows] or [rows, components].
        inputs: the data's row behind each.
        trainer: whose batch it is.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    mask: Tensor
    advantages: Tensor
    inputs: Sequence[Mapping[str, Any]]
    trainer: Any


TokenCredit = Callable[[TokenBatch], Tensor]
"""Credit [rows, tokens] or [rows, tokens, components], as of `noria.core.training.rl.credited`."""

_STATE = "advantages.json"


class ComponentGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPO with component rewards, where advantages and credit are plugs; everything else is TRL's.

    Args:
        args, kwargs: arguments of `GRPOTrainer`. Each reward function is a component.
        advantage_function: from component rewards to advantages; TRL's own by default.
        token_credit: from tokens to their share; all of it by default.
        dataset_column: column of the data that says which data set a row is from.
        around: a context, given the trainer, in which completions are written and scored; what reads the model's
            own passes (attention, say) hooks in there.

    Raises:
        ConfigError: settings under which TRL cannot take advantages by token.
    """

    def __init__(
        self,
        *args: Any,
        advantage_function: AdvantageFunction | None = None,
        token_credit: TokenCredit | None = None,
        dataset_column: str = "data_source",
        around: Callable[[Any], AbstractContextManager[Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if token_credit is not None and getattr(self.args, "use_liger_kernel", False):
            raise ConfigError(
                "the Liger kernel takes one advantage a completion",
                where="use_liger_kernel",
                mend="leave it off",
            )
        self.advantage_function, self.token_credit = advantage_function, token_credit
        self.dataset_column, self.around = dataset_column, around
        self._gathered: Tensor | None = None
        self._remembering = _remembering(advantage_function)
        if self._remembering is not None:
            self.add_callback(_KeepState(self._remembering))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as TRL does; what the advantage function remembers is resumed with the rest.

        True goes on from the newest checkpoint. The state is written last, so where an advantage function remembers,
        a checkpoint without it was cut by the end of its process, and the one before is taken.

        Raises:
            CheckpointError: the checkpoint does not hold it.
        """
        folder: Any = resume_from_checkpoint
        if resume_from_checkpoint is True:
            folder = self._newest()
            resume_from_checkpoint = folder
        if folder and self._remembering is not None:
            file = Path(folder) / _STATE
            try:
                self._remembering.load_state_dict(json.loads(file.read_text()))
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    "no state of the advantage function",
                    where=str(file),
                    mend="resume from another checkpoint",
                ) from error
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _newest(self) -> str | None:
        if self._remembering is None:
            last: str | None = get_last_checkpoint(self.args.output_dir)
            return last
        whole = [p.parent for p in Path(self.args.output_dir).glob(f"checkpoint-*/{_STATE}")]
        numbered = [p for p in whole if p.name.partition("-")[2].isdigit()]
        newest = max(numbered, key=lambda p: int(p.name.partition("-")[2]), default=None)
        return None if newest is None else str(newest)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        gathered: Tensor = super()._calculate_rewards(*args, **kwargs)
        self._gathered = gathered.clone()
        return gathered

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self.around(self) if self.around else contextlib.nullcontext():
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        rewards, self._gathered = self._gathered, None
        if rewards is None:
            raise RuntimeError("this TRL does not score with _calculate_rewards")
        training, own = bool(self.model.training), output["advantages"]
        if self.advantage_function is not None:
            size = self.num_generations if training else self.num_generations_eval
            found = self.advantage_function(
                RewardBatch(
                    rewards=rewards,
                    names=tuple(self.reward_func_names),
                    group=torch.arange(len(rewards), device=rewards.device) // size,
                    dataset=tuple(gather_object([str(x.get(self.dataset_column) or "") for x in inputs])),
                    training=training,
                    step=int(self.state.global_step),
                )
            )
            start = self.accelerator.process_index * len(inputs)
            own = found.values[start : start + len(inputs)].to(own)
            self._note(found, training)
        if self.token_credit is None:
            output["advantages"] = credited(own)
            return output
        mask = output["completion_mask"].bool()
        if "tool_mask" in output:
            mask &= output["tool_mask"].bool()
        credit = self.token_credit(
            TokenBatch(
                prompt_ids=output["prompt_ids"],
                prompt_mask=output["prompt_mask"].bool(),
                completion_ids=output["completion_ids"],
                mask=mask,
                advantages=own,
                inputs=inputs,
                trainer=self,
            )
        )
        output["advantages"] = credited(own, credit) * mask
        return output

    def _note(self, found: Advantages, training: bool) -> None:
        """Log the metrics, and our advantages in the place of TRL's."""
        metrics = self._metrics["train" if training else "eval"]
        for name, value in found.metrics.items():
            metrics[name].append(float(value))
        logged = self._logs["advantages"]
        for _ in range(min(len(logged), len(found.values))):
            logged.pop()
        logged.extend(credited(found.values).tolist())


def _remembering(function: object) -> Remembering | None:
    return function if isinstance(function, Remembering) else None


class _KeepState(TrainerCallback):  # type: ignore[misc]
    """Writes what the advantage function remembers beside each checkpoint."""

    def __init__(self, function: Remembering) -> None:
        self.function = function

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _STATE
            write_atomic(file, json.dumps(self.function.state_dict(), allow_nan=False))
