"""Training a language model as the router that writes, in a run folder, and judging it on questions it did not see."""

from __future__ import annotations

import asyncio
import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.chat import Answer as AnswerOutcome
from noria.core.chat import ChatRequest, Failure, Outcome, Usage
from noria.core.config import load_config
from noria.core.errors import CheckpointError, ConfigError, DataError, needing, require
from noria.core.models.loading import open_language_model, quiet_loading, save_language_model
from noria.core.progress import Progress
from noria.core.runs.checkpoints import fingerprint
from noria.core.runs.outputs import check_run_folder
from noria.core.runs.run import Run, save_settings, settled
from noria.routing.answers import Thrift
from noria.routing.config import WriterTraining
from noria.routing.environment import Environment, Limits
from noria.routing.imports import import_table
from noria.routing.jobs import Trained, baselines_of, score_record, table_content, write_score
from noria.routing.metrics import Score
from noria.routing.pages import write_run_page
from noria.routing.pool import Asker, Replayed, open_pool, read_pool
from noria.routing.table import Question, Table
from noria.routing.together import Together
from noria.routing.writer import Played, Writer, play

with needing("routing"):
    import transformers
    from transformers import TrainerCallback

__all__ = [
    "OpenedWriter",
    "Watch",
    "WritingRouter",
    "Written",
    "evaluate_writer",
    "judge_writer",
    "open_writer",
    "prompt_for",
    "train_writer",
]


@dataclass(frozen=True)
class Written:
    """How a writing router did: its `score`, the share of well-formed rollouts, and calls a question."""

    score: Score
    form: float
    calls: float


def train_writer(
    config: WriterTraining,
    folder: Path,
    *,
    allow_download: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a router that writes, or go on training it, in `folder`; TRL's checkpoints are in `folder/trl`.

    Raises:
        NoriaError: anything that a user can mend.
    """
    router_trainer = require("noria.routing.integrations.trl", "trl").router_trainer
    check_run_folder(folder)
    table = import_table(Path(config.table or ""))
    train, held = table.split(1 - config.held_out, seed=config.seed)
    opened = open_language_model(config.model or "", device=device, allow_download=allow_download)
    with (
        progress or Progress(quiet=True) as said,
        asyncio.Runner() as runner,
        contextlib.ExitStack() as stack,
    ):
        pool = _pool(config, table, runner, allow_download)
        known = table.cost[np.isfinite(table.cost)]
        environment = Environment(
            pool,
            limits=Limits(calls=config.calls, information=config.information),
            thrift=Thrift.of(known) if len(known) else None,
        )
        ask = prompt_for(opened.tokenizer, environment, instruct=config.instruct)
        questions = [q for q in train.questions if q.answers and q.rule]
        if not questions:
            raise DataError(
                "no question has an answer and a rule",
                where=str(config.table),
                mend="record it from questions",
            )
        _fits(opened, config, [ask(q) for q in questions])
        identity = settled(
            folder,
            config.model_dump(mode="json", exclude={"steps"}),
            {
                "table": (str(config.table), table_content(table)),
                "model": (str(config.model), fingerprint(opened.model)),
            },
        )
        run = stack.enter_context(Run.open(folder, config=identity))
        save_settings(folder, config)
        stack.enter_context(quiet_loading(transformers))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # TRL's use of it
        trainer = router_trainer(
            opened.model,
            opened.tokenizer,
            environment,
            questions,
            config,
            folder / "trl",
            prompt=ask,
            runner=runner,
        )
        task = said.task("train", config.steps)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(Watch(run, lambda step, note: task.at(step, note)))
        resume = any((folder / "trl").glob("checkpoint-*"))
        trainer.train(resume_from_checkpoint=resume or None)
        task.done()
        save_language_model(opened.model, opened.tokenizer, folder / "policy")
        said.say(f"judging on {len(held.questions)} questions")
        written = runner.run(
            judge_writer(opened.model, opened.tokenizer, environment, held, config, prompt=ask)
        )
        record = score_record(written.score) | {"form": written.form, "calls": written.calls}
        write_score(folder, written.score, config.steps, baselines_of(train, held), record)
        page = write_run_page(folder)
    return Trained(folder, page, config.steps, written.score)


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


def evaluate_writer(opened: OpenedWriter, table: Table) -> Written:
    """How it does on a table's questions, against what the table recorded.

    Raises:
        DataError: the table has no responses.
    """

    async def run() -> Written:
        environment = opened_environment(opened, Replayed(table), table.cost)
        ask = prompt_for(opened.tokenizer, environment, instruct=opened.config.instruct)
        return await judge_writer(
            opened.model, opened.tokenizer, environment, table, opened.config, prompt=ask
        )

    if not any(cell.response is not None for cell in table.cells.values()):
        raise DataError("a table without responses", where="--table", mend="record one")
    return asyncio.run(run())


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
        self._together: Together[str, Played] = Together(self._play, key=lambda _: 0, most=together)

    async def play(self, question: str) -> Played:
        """A rollout of a question."""
        return await self._together.ask(question)

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


async def judge_writer(
    model: Any,
    tokenizer: Any,
    environment: Environment,
    table: Table,
    config: WriterTraining,
    *,
    prompt: Callable[[Question], str],
) -> Written:
    """Play every question of a table greedily."""
    training = model.training
    model.eval()
    try:
        writer = Writer(model, tokenizer, environment.grammar.stops, turn_tokens=config.turn_tokens)
        played = await play(
            writer,
            environment,
            table.questions,
            [writer.ids(prompt(q)) for q in table.questions],
            temperature=0.0,
            seed=0,
            completion_tokens=config.completion_tokens,
        )
    finally:
        model.train(training)
    return summed(played, environment, table)


def summed(played: Sequence[Played], environment: Environment, table: Table) -> Written:
    """What rollouts of a table's questions were worth."""
    rows = np.array([environment.rewards(p.rollout) for p in played], dtype=float)
    costs = np.array([p.rollout.cost for p in played])
    names = list(dict.fromkeys(table.dataset))
    of = np.array(table.dataset)
    accuracy = {name: _mean(rows[of == name, 1]) for name in names}
    best = np.nanmax(np.where(np.isnan(table.score), -np.inf, table.score), axis=1)
    got = rows[:, 1]
    both = ~np.isnan(got) & np.isfinite(best)
    score = Score(
        accuracy=accuracy,
        macro=_mean(np.array(list(accuracy.values()))),
        micro=_mean(got),
        cost=_mean(costs),
        regret=_mean(best[both] - got[both]),
        scored=int((~np.isnan(got)).sum()),
        questions=len(got),
        costed=int((~np.isnan(costs)).sum()),
    )
    return Written(score, _mean(rows[:, 0]), float(np.mean([len(p.rollout.called) for p in played])))


class Watch(TrainerCallback):  # type: ignore[misc]
    """Writes what TRL logs into the run's log, also what it had logged before it was stopped.

    Args:
        run: the run.
        tell: told of the step and of a figure.
    """

    def __init__(self, run: Run, tell: Callable[[int, str], None]) -> None:
        self.run, self.tell = run, tell

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the history of the checkpoint that it goes on from."""
        for entry in state.log_history:
            self._write(entry)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write a step."""
        entry = dict(logs or {}) | {"step": state.global_step}
        self._write(entry)
        self.tell(state.global_step, f"reward {entry['reward']:.3f}" if "reward" in entry else "")

    def _write(self, entry: dict[str, Any]) -> None:
        if "reward" not in entry:  # a summary at the end
            return
        named = {
            (
                "reward/" + name.split("/")[1]
                if name.startswith("rewards/") and name.endswith("/mean")
                else name
            ): v
            for name, v in entry.items()
            if isinstance(v, int | float) and name not in ("step", "epoch")
        }
        timeless = {n: v for n, v in named.items() if not n.endswith(("time", "runtime", "per_second"))}
        self.run.log(int(entry["step"]), **dict(sorted(timeless.items())))  # as a checkpoint has them


def _pool(config: WriterTraining, table: Table, runner: asyncio.Runner, allow_download: bool) -> Asker:
    if config.pool is not None:
        opened = read_pool(Path(config.pool))

        async def live() -> Asker:
            cache = None if config.cache is None else Path(config.cache)
            return open_pool(opened, cache=cache, budget=config.budget, allow_download=allow_download)

        return runner.run(live())
    if not any(cell.response is not None for cell in table.cells.values()):
        raise DataError(
            "the table has scores and no responses, so a router that writes has nothing to read",
            where=str(config.table),
            mend="record one with noria routing record, give pool=FILE, or train --policy network",
        )
    return Replayed(table)


def _fits(opened: Any, config: WriterTraining, prompts: Sequence[str]) -> None:
    longest = max(len(opened.tokenizer(p, add_special_tokens=False)["input_ids"]) for p in prompts)
    room = getattr(opened.model.config, "max_position_embeddings", math.inf)
    if longest + config.completion_tokens > room:
        raise ConfigError(
            f"prompts of {longest:,} tokens and rollouts of {config.completion_tokens:,} are more than the model's "
            f"{room:,}",
            where="completion_tokens",
            mend="lower it, or give a model that reads more",
        )


def _mean(values: Any) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else math.nan
