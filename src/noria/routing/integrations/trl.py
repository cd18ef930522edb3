"""Training of the router that writes, by TRL's GRPO trainer with calibrated rewards."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import ConfigError, needing
from noria.routing.rewards.calibrator import Calibrator
from noria.routing.tables.table import Question
from noria.routing.writer.environment import Environment
from noria.routing.writer.policy import Prompt, WriterPolicy
from noria.routing.writer.writer import PlayedRollout, credit_of

with needing("trl"):
    from datasets import Dataset
    from trl import GRPOConfig

    from noria.core.training.trl import ComponentGRPOTrainer, TokenBatch

__all__ = ["RolloutFunction", "router_trainer"]

NAMES = Environment.names


class RolloutFunction:
    """The function of `GRPOTrainer(rollout_func=…)`: it plays a rollout of each prompt, with its rewards.

    Args:
        policy: the language model and the settings of its training; TRL's own wrapping of the model plays.
        environment: where it plays, with the pool.
        questions: questions by the prompt that asks each.
        runner: runner of the event loop that the pool's clients live in.
    """

    def __init__(
        self,
        policy: WriterPolicy,
        environment: Environment,
        questions: Mapping[str, Question],
        runner: asyncio.Runner,
    ) -> None:
        self.policy, self.environment, self.questions, self.runner = policy, environment, questions, runner
        self.last: Sequence[PlayedRollout] = ()

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """Tokens, their log-probabilities and owners, rewards, and which tokens earn them."""
        config = self.policy.config
        model = trainer.accelerator.unwrap_model(trainer.model)
        policy = replace(self.policy, model=model, tokenizer=trainer.processing_class)
        rank = trainer.accelerator.process_index
        training = model.training
        self.last = self.runner.run(
            policy.play(
                self.environment,
                [self.questions[prompt] for prompt in prompts],
                prompts,
                temperature=config.temperature,
                seed=((config.seed << 24) + int(trainer.state.global_step)) * 256 + rank,
            )
        )
        rewards = [self.environment.rewards(played.rollout) for played in self.last]
        columns: dict[str, Any] = {
            "prompt_ids": [played.prompt for played in self.last],
            "completion_ids": [played.tokens for played in self.last],
            "logprobs": [played.logprobs for played in self.last],
            "env_mask": [[int(own) for own in played.ours] for played in self.last],
        }
        for n, name in enumerate(NAMES):
            columns[f"reward_{name}"] = [None if math.isnan(row[n]) else row[n] for row in rewards]
        if config.credit == "spans":
            writer = policy.writer(self.environment)
            columns["credit"] = [credit_of(played, writer, NAMES).tolist() for played in self.last]
        self._log(trainer, training)
        return columns

    def _log(self, trainer: Any, training: bool) -> None:
        metrics = trainer._metrics["train" if training else "eval"]
        played = self.last
        metrics["rollout/calls"].append(sum(len(p.rollout.calls) for p in played) / len(played))
        metrics["rollout/lost"].append(sum(p.rollout.lost for p in played) / len(played))
        costs = [p.rollout.cost for p in played if not math.isnan(p.rollout.cost)]
        if costs:
            metrics["rollout/cost"].append(sum(costs) / len(costs))


def _reward(name: str) -> Callable[..., list[float | None]]:
    """What the rollout already knows, as a reward function of TRL's."""

    def reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return list(columns[f"reward_{name}"])

    reward.__name__ = name
    return reward


def _spans(batch: TokenBatch) -> Tensor:
    credit = torch.zeros(*batch.completion_ids.shape, len(NAMES), device=batch.completion_ids.device)
    for n, row in enumerate(batch.inputs):
        own = torch.tensor(row["credit"], device=credit.device).reshape(-1, len(NAMES))
        credit[n, : len(own)] = own
    return credit


def router_trainer(
    policy: WriterPolicy,
    environment: Environment,
    questions: Sequence[Question],
    folder: Path,
    *,
    prompt: Prompt,
    runner: asyncio.Runner,
    **settings: Any,
) -> ComponentGRPOTrainer:
    """Make TRL's trainer for a router that writes.

    Args:
        policy: the language model, on the device that it is trained on, and the settings of its training.
        environment: where it plays, with the pool.
        questions: the questions to train on.
        folder: where TRL keeps its checkpoints.
        prompt: text that the policy reads of a question.
        runner: runner of the event loop that the pool's clients live in.
        settings: further settings of `GRPOConfig`.

    Raises:
        ConfigError: two questions have one prompt.
    """
    config = policy.config
    by_prompt = {prompt(question): question for question in questions}
    if len(by_prompt) < len(questions):
        raise ConfigError(
            f"{len(questions) - len(by_prompt)} questions are asked twice",
            where="table",
            mend="leave them out",
        )
    data = Dataset.from_list([{"prompt": p, "data_source": q.dataset} for p, q in by_prompt.items()])
    batch = config.prompts * config.group
    own: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": config.steps,
        "per_device_train_batch_size": batch,
        "generation_batch_size": batch,
        "num_generations": config.group,
        "max_completion_length": config.completion_tokens,
        "temperature": config.temperature,
        "learning_rate": config.lr,
        "lr_scheduler_type": "constant",  # so that a run can be given more steps later
        "beta": config.beta,
        "loss_type": config.loss,
        "seed": config.seed,
        "data_seed": config.seed,
        "save_steps": config.checkpoint_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "dataloader_num_workers": 0,
    }
    if policy.model.device.type == "cpu":  # TRL asks for bf16 by itself, which is slow and coarse there
        own |= {"use_cpu": True, "bf16": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rollout_func.*", category=UserWarning)
        return ComponentGRPOTrainer(
            model=policy.model,
            reward_funcs=[_reward(name) for name in NAMES],
            args=GRPOConfig(**own | settings),
            train_dataset=data,
            processing_class=policy.tokenizer,
            rollout_func=RolloutFunction(policy, environment, by_prompt, runner),
            advantage_function=Calibrator(config.calibrated(), by_component=config.credit == "spans"),
            token_credit=_spans if config.credit == "spans" else None,
        )
