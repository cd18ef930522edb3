"""A language model as the policy of a router that writes: the model, its prompt, and playing rollouts with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from noria.core.config import load_config
from noria.core.errors import CheckpointError
from noria.core.models.loading import open_language_model
from noria.routing.config import WriterTraining
from noria.routing.pool.pool import Asker
from noria.routing.tables.answers import Thrift
from noria.routing.tables.table import Question
from noria.routing.writer.environment import Environment, Limits
from noria.routing.writer.writer import PlayedRollout, Writer, play

__all__ = ["Prompt", "WriterPolicy", "open_writer"]

Prompt: TypeAlias = Callable[[Question], str]
"""The text that a policy reads of a question."""


@dataclass(frozen=True)
class WriterPolicy:
    """A language model that writes, and the settings that it is trained with."""

    model: Any
    tokenizer: Any
    config: WriterTraining

    def environment(self, pool: Asker, costs: Sequence[float] | np.ndarray = ()) -> Environment:
        """The environment that the settings describe, with a pool; thrift is measured against `costs`."""
        limits = Limits(calls=self.config.calls, information=self.config.information)
        return Environment(pool, limits=limits, thrift=Thrift.of_known(costs))

    def prompt(self, environment: Environment) -> Prompt:
        """What the policy reads of a question, through its chat template where it has one."""
        pool = environment.pool
        described = getattr(pool, "described", None) or [(route.label, "") for route in pool.routes]

        def prompt(question: Question) -> str:
            if not self.config.instruct:
                return f"Question: {question.text}\n"
            calls = environment.limits.calls
            text = environment.grammar.prompt(question.text, described, calls=calls)
            if getattr(self.tokenizer, "chat_template", None):
                chat = [{"role": "user", "content": text}]
                return str(
                    self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
                )
            return text

        return prompt

    def writer(self, environment: Environment) -> Writer:
        """The model writing turns of the environment's grammar."""
        stops = environment.grammar.stops
        return Writer(self.model, self.tokenizer, stops, turn_tokens=self.config.turn_tokens)

    async def play(
        self,
        environment: Environment,
        questions: Sequence[Question],
        prompts: Sequence[str],
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[PlayedRollout]:
        """Play a rollout of every question, greedily by default, with the model in evaluation mode."""
        training = self.model.training
        self.model.eval()
        try:
            writer = self.writer(environment)
            return await play(
                writer,
                environment,
                questions,
                [writer.ids(prompt) for prompt in prompts],
                temperature=temperature,
                seed=seed,
                completion_tokens=self.config.completion_tokens,
            )
        finally:
            self.model.train(training)


def open_writer(folder: Path) -> WriterPolicy:
    """Open the policy of a run.

    Raises:
        CheckpointError: there is none.
    """
    if not (folder / "policy").is_dir() or not (folder / "settings.yaml").is_file():
        raise CheckpointError(
            "no router that writes here",
            where=str(folder),
            mend="give the run of noria routing train --policy writer",
        )
    opened = open_language_model(str(folder / "policy"))
    config = load_config(WriterTraining, file=folder / "settings.yaml")
    return WriterPolicy(opened.model, opened.tokenizer, config)
