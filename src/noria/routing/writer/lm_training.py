"""Training a language model as the router that writes, by TRL, in a run folder."""

from __future__ import annotations

import asyncio
import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.errors import ConfigError, DataError, needing, require
from noria.core.models.loading import open_language_model, quiet_loading, save_language_model
from noria.core.progress import Progress
from noria.core.runs.checkpoints import fingerprint
from noria.core.runs.outputs import check_run_folder
from noria.core.runs.run import Run, save_settings, settled
from noria.routing.config import WriterTraining
from noria.routing.pool.config import read_pool
from noria.routing.pool.pool import Asker, Replayed, open_pool
from noria.routing.routers.page import write_run_page
from noria.routing.routers.scores import Trained, baselines_of, score_record, table_content, write_score
from noria.routing.tables.answers import Thrift
from noria.routing.tables.imports import import_table
from noria.routing.tables.table import Table
from noria.routing.writer.environment import Environment, Limits
from noria.routing.writer.judging import judge_writer
from noria.routing.writer.router import prompt_for

with needing("trl"):
    import transformers
    from transformers import TrainerCallback

__all__ = ["Watch", "train_writer"]


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
