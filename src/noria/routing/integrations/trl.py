"""Training of the router that writes, by TRL's GRPO trainer with calibrated rewards."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import ConfigError, needing
from noria.routing.config import WriterTraining
from noria.routing.rewards.calibrator import Calibrator
from noria.routing.tables.table import Question
from noria.routing.writer.environment import Environment
from noria.routing.writer.writer import Played, Writer, credit_of, play

with needing("trl"):
    from datasets import Dataset
    from trl import GRPOConfig

    from noria.core.training.trl import ComponentGRPOTrainer, TokenBatch

__all__ = ["PlayedRollouts", "router_trainer"]

NAMES = Environment.names


class PlayedRollouts:
    """What `GRPOTrainer(rollout_func=…)` calls: a played rollout of each prompt, with its rewards.

    Args:
        environment: with the pool.
        questions: by the prompt that asks each.
        config: of the training.
        runner: of the event loop that the pool's clients live in.
    """

    def __init__(
        self,
        environment: Environment,
        questions: Mapping[str, Question],
        config: WriterTraining,
        runner: asyncio.Runner,
    ) -> None:
        self.environment, self.questions, self.config, self.runner = environment, questions, config, runner
        self.last: Sequence[Played] = ()

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """Tokens, their log-probabilities and owners, rewards, and which tokens earn them."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        tokenizer, config = trainer.processing_class, self.config
        writer = Writer(model, tokenizer, self.environment.grammar.stops, turn_tokens=config.turn_tokens)
        training = model.training
        model.eval()
        rank = trainer.accelerator.process_index
        try:
            self.last = self.runner.run(
                play(
                    writer,
                    self.environment,
                    [self.questions[prompt] for prompt in prompts],
                    [writer.ids(prompt) for prompt in prompts],
                    temperature=config.temperature,
                    seed=((config.seed << 24) + int(trainer.state.global_step)) * 256 + rank,
                    completion_tokens=config.completion_tokens,
                )
            )
        finally:
            model.train(training)
        scored = [self.environment.rewards(p.rollout) for p in self.last]
        found: dict[str, Any] = {
            "prompt_ids": [p.prompt for p in self.last],
            "completion_ids": [p.tokens for p in self.last],
            "logprobs": [p.logprobs for p in self.last],
            "env_mask": [[int(own) for own in p.ours] for p in self.last],
        }
        for n, name in enumerate(NAMES):
            found[f"reward_{name}"] = [None if math.isnan(row[n]) else row[n] for row in scored]
        if config.credit == "spans":
            found["credit"] = [credit_of(p, writer, NAMES).tolist() for p in self.last]
        self._log(trainer, training)
        return found

    def _log(self, trainer: Any, training: bool) -> None:
        metrics = trainer._metrics["train" if training else "eval"]
        played = self.last
        metrics["rollout/calls"].append(sum(len(p.rollout.called) for p in played) / len(played))
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
    model: Any,
    tokenizer: Any,
    environment: Environment,
    questions: Sequence[Question],
    config: WriterTraining,
    folder: Path,
    *,
    prompt: Callable[[Question], str],
    runner: asyncio.Runner,
    **settings: Any,
) -> ComponentGRPOTrainer:
    """TRL's trainer for a router that writes.

    Args:
        model: the policy, on the device that it is trained on.
        tokenizer: its own.
        environment: with the pool.
        questions: to train on.
        config: of the training.
        folder: of TRL's checkpoints.
        prompt: what the policy reads of a question.
        runner: of the event loop that the pool's clients live in.
        settings: more of `GRPOConfig`.

    Raises:
        ConfigError: two questions have one prompt.
    """
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
    if model.device.type == "cpu":  # TRL asks for bf16 by itself, which is slow and coarse there
        own |= {"use_cpu": True, "bf16": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rollout_func.*", category=UserWarning)
        return ComponentGRPOTrainer(
            model=model,
            reward_funcs=[_reward(name) for name in NAMES],
            args=GRPOConfig(**own | settings),
            train_dataset=data,
            processing_class=tokenizer,
            rollout_func=PlayedRollouts(environment, by_prompt, config, runner),
            advantage_function=Calibrator(config.calibrated(), by_component=config.credit == "spans"),
            token_credit=_spans if config.credit == "spans" else None,
        )
