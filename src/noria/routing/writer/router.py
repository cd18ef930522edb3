"""Training a language model as the router that writes, in a run folder, and judging it on questions it did not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.chat import Answer as AnswerOutcome
from noria.core.chat import ChatRequest, Failure, Outcome, Usage
from noria.core.config import load_config
from noria.core.errors import CheckpointError, needing
from noria.core.models.loading import open_language_model
from noria.routing.config import WriterTraining
from noria.routing.pool.batching import Batcher
from noria.routing.pool.pool import Asker
from noria.routing.tables.answers import Thrift
from noria.routing.tables.table import Question
from noria.routing.writer.environment import Environment, Limits
from noria.routing.writer.writer import Played, Writer, play

__all__ = ["OpenedWriter", "WritingRouter", "open_writer", "opened_environment", "prompt_for"]

with needing("routing"):
    pass


def prompt_for(tokenizer: Any, environment: Environment, *, instruct: bool) -> Callable[[Question], str]:
    """What the policy reads of a question, through its chat template where it has one.

    Args:
        tokenizer: its own.
        environment: whose grammar and pool are explained.
        instruct: whether they are.
    """
    pool = environment.pool
    described = getattr(pool, "described", None) or [(route.label, "") for route in pool.routes]

    def ask(question: Question) -> str:
        if not instruct:
            return f"Question: {question.text}\n"
        text = environment.grammar.prompt(question.text, described, calls=environment.limits.calls)
        if getattr(tokenizer, "chat_template", None):
            chat = [{"role": "user", "content": text}]
            return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        return text

    return ask


@dataclass(frozen=True)
class OpenedWriter:
    """A trained router that writes: the model, its tokenizer, and what it was trained with."""

    model: Any
    tokenizer: Any
    config: WriterTraining


def open_writer(folder: Path) -> OpenedWriter:
    """The policy of a run.

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
    return OpenedWriter(
        opened.model, opened.tokenizer, load_config(WriterTraining, file=folder / "settings.yaml")
    )


def opened_environment(opened: OpenedWriter, pool: Asker, cost: Any = None) -> Environment:
    """The environment that a router was trained for, with a pool."""
    known = np.asarray([] if cost is None else cost)
    known = known[np.isfinite(known)]
    return Environment(
        pool,
        limits=Limits(calls=opened.config.calls, information=opened.config.information),
        thrift=Thrift.of(known) if len(known) else None,
    )


class WritingRouter:
    """A router that writes as a chat model: it thinks, calls models of a pool, and its answer is the answer.

    A rollout that is malformed is a `Failure` of kind garbage, which a service answers by asking someone else.

    Args:
        opened: the router.
        pool: whom it can call.
        together: rollouts that are played together.
    """

    def __init__(self, opened: OpenedWriter, pool: Asker, *, together: int = 16) -> None:
        self.opened, self.environment = opened, opened_environment(opened, pool)
        self.prompt = prompt_for(opened.tokenizer, self.environment, instruct=opened.config.instruct)
        self._batcher: Batcher[str, Played] = Batcher(self._play, key=lambda _: 0, most=together)

    async def play(self, question: str) -> Played:
        """A rollout of a question."""
        return await self._batcher.ask(question)

    async def ask(self, request: ChatRequest) -> Outcome:
        """The answer that the router comes to."""
        words = [message.text for message in request.messages if message.role == "user"]
        played = await self.play(words[-1] if words else "")
        rollout = played.rollout
        if rollout.answer is None or rollout.flaw is not None:
            return Failure("garbage", f"the router's rollout is malformed ({rollout.flaw})")
        usage = Usage(len(played.prompt), sum(played.ours))
        cost = None if math.isnan(rollout.cost) else rollout.cost
        return AnswerOutcome(rollout.answer, "stop", usage, cost)

    async def _play(self, questions: Sequence[str]) -> list[Played]:
        asked = [Question(f"live-{n}", "", text) for n, text in enumerate(questions)]
        own = self.opened
        writer = Writer(
            own.model, own.tokenizer, self.environment.grammar.stops, turn_tokens=own.config.turn_tokens
        )
        return await play(
            writer,
            self.environment,
            asked,
            [writer.ids(self.prompt(q)) for q in asked],
            temperature=0.0,
            seed=0,
            completion_tokens=own.config.completion_tokens,
        )
