"""Training a language model as the router that writes, by TRL, in a run folder."""

from __future__ import annotations

import asyncio
import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from noria.core.errors import ConfigError, DataError, needing, require
from noria.core.models.loading import open_language_model, quiet_loading, save_language_model
from noria.core.progress import Progress
from noria.core.runs.checkpoints import fingerprint
from noria.core.runs.outputs import check_run_folder
from noria.core.runs.run import Run, save_settings, settled
from noria.routing.config import WriterTraining
from noria.routing.pool.config import read_pool
from noria.routing.pool.pool import Asker, ReplayPool, open_pool
from noria.routing.routers.page import write_run_page
from noria.routing.routers.scores import TrainResult, judge_baselines, table_digest, write_score
from noria.routing.tables.imports import import_table
from noria.routing.tables.table import Table
from noria.routing.writer.judging import judge_writer
from noria.routing.writer.policy import WriterPolicy

with needing("trl"):
    import transformers
    from transformers import TrainerCallback


def train_writer(
    config: WriterTraining,
    folder: Path,
    *,
    allow_download: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a router that writes, or resume its training, in `folder`; TRL's checkpoints are in `folder/trl`.

    Raises:
        NoriaError: anything that a user can mend.
    """
    # The room of integrations stands on this one, so it is fetched by name.
    router_trainer = require("noria.routing.integrations.trl", "trl").router_trainer
    check_run_folder(folder)
    table = import_table(Path(config.table or ""))
    train, held = table.split(1 - config.held_out, seed=config.seed)
    opened = open_language_model(config.model or "", device=device, allow_download=allow_download)
    policy = WriterPolicy(opened.model, opened.tokenizer, config)
    with (
        progress or Progress(quiet=True) as shown,
        asyncio.Runner() as runner,
        contextlib.ExitStack() as stack,
    ):
        environment = policy.environment(_pool(config, table, runner, allow_download), table.cost)
        prompt = policy.prompt(environment)
        questions = [q for q in train.questions if q.answers and q.rule]
        if not questions:
            raise DataError(
                "no question has an answer and a rule",
                where=str(config.table),
                mend="record it from questions",
            )
        _check_room(policy, [prompt(q) for q in questions])
        inputs = {
            "table": (str(config.table), table_digest(table)),
            "model": (str(config.model), fingerprint(opened.model)),
        }
        identity = settled(folder, config.model_dump(mode="json", exclude={"steps"}), inputs)
        run = stack.enter_context(Run.open(folder, config=identity))
        save_settings(folder, config)
        stack.enter_context(quiet_loading(transformers))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # TRL's use of it
        trainer = router_trainer(policy, environment, questions, folder / "trl", prompt=prompt, runner=runner)
        task = shown.task("train", config.steps)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(RunLogCallback(run, task.at))
        resume = any((folder / "trl").glob("checkpoint-*"))
        trainer.train(resume_from_checkpoint=resume or None)
        task.done()
        save_language_model(opened.model, opened.tokenizer, folder / "policy")
        shown.say(f"judging on {len(held.questions)} questions")
        result = runner.run(judge_writer(policy, environment, held, prompt=prompt))
        baselines = judge_baselines(train, held)
        write_score(folder, config.steps, result.record(), baselines)
        page = write_run_page(folder)
    return TrainResult(folder, page, config.steps, result.score, baselines)


class RunLogCallback(TrainerCallback):  # type: ignore[misc]
    """Writes what TRL logs into the run's log, also what it had logged before it was stopped.

    Args:
        run: the run.
        on_step: called with the step and a note on its reward.
    """

    def __init__(self, run: Run, on_step: Callable[[int, str], None]) -> None:
        self.run, self.on_step = run, on_step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the history of the checkpoint that the training resumes from."""
        for entry in state.log_history:
            self._write(entry)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write a step."""
        entry = dict(logs or {}) | {"step": state.global_step}
        self._write(entry)
        self.on_step(state.global_step, f"reward {entry['reward']:.3f}" if "reward" in entry else "")

    def _write(self, entry: dict[str, Any]) -> None:
        if "reward" not in entry:  # a summary at the end
            return
        figures = {}
        for name, value in entry.items():
            if not isinstance(value, int | float) or name in ("step", "epoch"):
                continue
            if name.endswith(("time", "runtime", "per_second")):  # a resumed run would differ in them
                continue
            is_component = name.startswith("rewards/") and name.endswith("/mean")
            figures[f"reward/{name.split('/')[1]}" if is_component else name] = value
        self.run.log(int(entry["step"]), **dict(sorted(figures.items())))


def _pool(config: WriterTraining, table: Table, runner: asyncio.Runner, allow_download: bool) -> Asker:
    if config.pool is not None:
        opened = read_pool(Path(config.pool))

        async def live() -> Asker:
            return open_pool(opened, cache=config.cache, budget=config.budget, allow_download=allow_download)

        return runner.run(live())
    if not table.has_responses:
        raise DataError(
            "the table has scores and no responses, so a router that writes has nothing to read",
            where=str(config.table),
            mend="record one with noria routing record, give pool=FILE, or train --policy network",
        )
    return ReplayPool(table)


def _check_room(policy: WriterPolicy, prompts: Sequence[str]) -> None:
    """Refuse prompts and rollouts that are longer than the model reads."""
    longest = max(len(policy.tokenizer(p, add_special_tokens=False)["input_ids"]) for p in prompts)
    most = policy.config.completion_tokens
    room = getattr(policy.model.config, "max_position_embeddings", math.inf)
    if longest + most > room:
        raise ConfigError(
            f"prompts of {longest:,} tokens and rollouts of {most:,} are more than the model's {room:,}",
            where="completion_tokens",
            mend="lower it, or give a model that reads more",
        )
