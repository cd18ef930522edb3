"""The bridge to TRL: its GRPO trainer with pluggable advantages and credit of tokens.

TRL sums the rewards of a completion, and gives each of its tokens the same advantage. Here an `AdvantageFunction` gets
the rewards of all ranks by component, and a `TokenCredit` says which tokens earn them. Two systems that bring one each
work together without knowing each other.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from noria.core.digests import DIGESTS, check_digests, write_digests
from noria.core.errors import CheckpointError, ConfigError, DataError, needing
from noria.core.files import write_atomic
from noria.core.records import read_json
from noria.core.training.rl import credited

with needing("trl"):
    from accelerate.utils import gather_object
    from transformers import TrainerCallback
    from trl import GRPOTrainer


@dataclass(frozen=True)
class RewardBatch:
    """Rewards of one generation, of all ranks, in the same order on every rank.

    Attributes:
        rewards: [rows, components]; NaN where a reward function returned None.
        names: names of the components, in order.
        group: [rows] number of the prompt.
        dataset: [rows] name of the data set; "" where the data has none.
        training: False in an evaluation, which must not change any state.
        step: step of the trainer.
    """

    rewards: Tensor
    names: tuple[str, ...]
    group: Tensor
    dataset: tuple[str, ...]
    training: bool
    step: int


@dataclass(frozen=True)
class Advantages:
    """Result of an advantage function: `values` [rows] or [rows, components], and `metrics` for the log."""

    values: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)


AdvantageFunction = Callable[[RewardBatch], Advantages]
"""It runs on every rank on the same rows, so its state stays the same on all."""


@runtime_checkable
class Remembering(Protocol):
    """An advantage function with a state of JSON values, which is saved with each checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the state."""
        ...


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of one rank's completions.

    Attributes:
        prompt_ids, prompt_mask: [rows, prompt tokens], padded on the left.
        completion_ids: [rows, tokens], padded on the right.
        completion_mask: [rows, tokens] bool: tokens of the completion, a tool's among them; the rest is padding.
        mask: [rows, tokens] bool: tokens of the policy, which are neither a tool's nor padding.
        advantages: [rows] or [rows, components].
        inputs: row of the data of each completion.
        trainer: trainer of the batch.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    mask: Tensor
    advantages: Tensor
    inputs: Sequence[Mapping[str, Any]]
    trainer: Any


TokenCredit = Callable[[TokenBatch], Tensor]
"""Returns credit [rows, tokens] or [rows, tokens, components] for `noria.core.training.rl.credited`."""

_STATE = "advantages.json"


class ComponentGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO trainer with rewards by component, and plugs for the advantages and the credit of tokens.

    Args:
        args, kwargs: arguments of `GRPOTrainer`. Each reward function is a component.
        advantage_function: makes advantages of the rewards by component; TRL's own by default.
        token_credit: makes the share of each token; every token gets the whole advantage by default.
        dataset_column: column of the data that names the data set of a row.
        around: makes a context of the trainer in which completions are generated and scored. Hooks on the model's
            forward passes, such as those that read attention, are set there.

    Raises:
        ConfigError: a setting under which TRL cannot use advantages by token, or one of TRL's own advantages beside an
            advantage function.
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
        if token_credit is not None:
            _check_reaches_tokens(self.args)
        if advantage_function is not None:
            _check_makes_advantages(self.args)
        self.advantage_function, self.token_credit = advantage_function, token_credit
        self.dataset_column, self.around = dataset_column, around
        self._rewards: Tensor | None = None  # rewards of all ranks, of the batch that is being scored
        self._stateful = _stateful(advantage_function)
        self.add_callback(_Finish(self._stateful))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as TRL does; the state of the advantage function is resumed with the rest.

        True resumes from the newest whole checkpoint. State and digests are written last: a checkpoint without them was
        cut off when its process ended, and the one before is used; so it is where a file differs from its digest.

        Raises:
            CheckpointError: the checkpoint is damaged or does not hold the state, or all checkpoints are damaged.
        """
        folder: Any = resume_from_checkpoint
        if resume_from_checkpoint is True:
            folder = self._newest()
            resume_from_checkpoint = folder
        elif folder:
            check_digests(Path(folder))
        if folder and self._stateful is not None:
            file = Path(folder) / _STATE
            try:
                self._stateful.load_state_dict(read_json(file))
            except (DataError, ValueError) as error:
                raise CheckpointError(
                    "no state of the advantage function",
                    where=str(file),
                    mend="resume from another checkpoint",
                ) from error
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _newest(self) -> str | None:
        folders = [
            path for path in Path(self.args.output_dir).glob("checkpoint-*") if path.name[11:].isdecimal()
        ]
        folders.sort(key=lambda path: int(path.name[11:]), reverse=True)
        finished = [path for path in folders if (path / DIGESTS).is_file()]
        if not finished:  # of a version without digests
            finished = [path for path in folders if self._stateful is None or (path / _STATE).is_file()]
        for path in finished:
            try:
                check_digests(path)
            except CheckpointError as error:
                warnings.warn(f"{error.where}: {error.what}; {path.name} is skipped", stacklevel=3)
            else:
                return str(path)
        if finished:
            raise CheckpointError(
                "every checkpoint is damaged",
                where=str(self.args.output_dir),
                mend="remove them and train again, or give another folder",
            )
        return None

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)
        self._rewards = rewards.clone()
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self.around(self) if self.around else contextlib.nullcontext():
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        rewards, self._rewards = self._rewards, None
        if rewards is None:
            raise RuntimeError("this TRL does not score with _calculate_rewards")
        training, advantages = bool(self.model.training), output["advantages"]
        if self.advantage_function is not None:
            size = self.num_generations if training else self.num_generations_eval
            result = self.advantage_function(
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
            advantages = result.values[start : start + len(inputs)].to(advantages)
            self._log_advantages(result, training)
        if self.token_credit is None:
            output["advantages"] = credited(advantages)
            return output
        generated = output["completion_mask"].bool()
        mask = generated & output["tool_mask"].bool() if "tool_mask" in output else generated
        credit = self.token_credit(
            TokenBatch(
                prompt_ids=output["prompt_ids"],
                prompt_mask=output["prompt_mask"].bool(),
                completion_ids=output["completion_ids"],
                completion_mask=generated,
                mask=mask,
                advantages=advantages,
                inputs=inputs,
                trainer=self,
            )
        )
        output["advantages"] = credited(advantages, credit) * mask
        return output

    def _log_advantages(self, result: Advantages, training: bool) -> None:
        """Log the metrics, and replace TRL's advantages in the log by ours."""
        metrics = self._metrics["train" if training else "eval"]
        for name, value in result.metrics.items():
            metrics[name].append(float(value))
        logged = self._logs["advantages"]
        for _ in range(min(len(logged), len(result.values))):
            logged.pop()
        logged.extend(credited(result.values).tolist())


def _check_reaches_tokens(args: Any) -> None:
    """Refuse settings under which the loss has no place for an advantage by token, and warn where it has few.

    Raises:
        ConfigError: there is such a setting.
    """
    if getattr(args, "use_liger_kernel", False):
        raise ConfigError(
            "the Liger kernel takes one advantage a completion",
            where="use_liger_kernel",
            mend="leave it off",
        )
    level = getattr(args, "importance_sampling_level", "token")
    if level != "token":
        raise ConfigError(
            f"one ratio a {level} gives its tokens equal gradients, whatever credit they get",
            where="importance_sampling_level",
            mend="set it to token, or leave the credit of tokens out",
        )
    if (share := getattr(args, "top_entropy_quantile", 1.0)) < 1:
        warnings.warn(
            f"top_entropy_quantile={share:g}: the loss leaves out the other {1 - share:.0%} of the tokens, whatever "
            "credit they get",
            stacklevel=3,
        )


def _check_makes_advantages(args: Any) -> None:
    """Refuse settings of TRL's own advantages, which an advantage function replaces.

    Raises:
        ConfigError: there is such a setting.
    """
    usual = {"reward_weights": (None,), "scale_rewards": ("group", True)}
    usual["multi_objective_aggregation"] = ("sum_then_normalize",)
    for name, values in usual.items():
        if getattr(args, name, values[0]) not in values:
            raise ConfigError(
                "the advantage function makes the advantages, so TRL would not use it",
                where=name,
                mend="leave it out, and set the function instead",
            )


def _stateful(function: object) -> Remembering | None:
    return function if isinstance(function, Remembering) else None


class _Finish(TrainerCallback):  # type: ignore[misc]
    """Callback that finishes each checkpoint: the state of the advantage function, then digests of the files."""

    def __init__(self, function: Remembering | None) -> None:
        self.function = function

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.function is not None:
            write_atomic(folder / _STATE, json.dumps(self.function.state_dict(), allow_nan=False))
        # Random states are written by every rank, perhaps not yet by all.
        write_digests(
            folder, [p for p in folder.iterdir() if p.is_file() and not p.name.startswith("rng_state")]
        )
