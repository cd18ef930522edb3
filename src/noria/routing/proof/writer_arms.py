"""The proof's router that writes: a language model of a few hundred thousand parameters, taught the grammar badly on
purpose, then trained by TRL against the recorded pool.
"""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from noria.core.models.lm import load_lm, save_lm, small_config, train_tokenizer
from noria.core.runs.workers import report
from noria.routing.config import WriterTraining
from noria.routing.pool.pool import Asker, ReplayPool, Reply
from noria.routing.proof.arms import stability
from noria.routing.tables.answers import Thrift
from noria.routing.tables.imports import import_table
from noria.routing.tables.table import Question, Route
from noria.routing.writer.environment import Environment, Limits
from noria.routing.writer.judging import WriterScore, judge_writer
from noria.routing.writer.policy import WriterPolicy

SEEN = 48
"""Characters of a question that the router reads: enough to know its kind."""
ROOM = 112
"""Tokens of a rollout."""
TURN = 40
"""Tokens of a turn."""
INFORMATION = 40
"""Characters of what a model says that are let in."""
BROKEN = 0.35
"""Share of its schooling that is malformed, so that there is form to be learned."""


def read_by_router(question: Question) -> str:
    """Text of a question that the router reads: its kind, and little more."""
    return f"Question: {' '.join(question.text.split())[:SEEN]}\n"


def run_school(table_file: str, steps: int, path: str) -> dict[str, Any]:
    """Teach a small model the grammar: any model is asked, its answer is repeated, and a third of it is malformed.

    Returns:
        The loss at the end and the model's size; the model is at `path`.
    """
    torch.set_num_threads(1)
    table, _ = import_table(Path(table_file)).split(0.7, seed=0)
    own = random.Random(0)
    row = {q.id: n for n, q in enumerate(table.questions)}

    def trace() -> str:
        question = own.choice(table.questions)
        column = own.randrange(len(table.routes))
        cell = table.cells.get((row[question.id], column))
        words = ((cell.response if cell else None) or "nothing").strip()[:INFORMATION]
        think = " ".join(re.findall("[a-z]+", question.text.lower())[:2])
        parts = [
            f"<think>{think}</think>",
            f"<route>{table.routes[column].label}: it</route>",
            f"\n<information> {words} </information>\n",
            f"<answer>{words}</answer>",
        ]
        if own.random() < BROKEN:
            _break(parts, own)
        return read_by_router(question) + "".join(parts)

    texts = [trace() for _ in range(4000)]
    tokenizer = train_tokenizer(texts, 640)
    config = small_config(len(tokenizer), width=96, layers=3, heads=4, length=256)
    import transformers

    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(config)
    rows = [[*tokenizer(text)["input_ids"], 0] for text in texts]
    padded = torch.full((len(rows), max(map(len, rows))), 1)
    for n, tokens in enumerate(rows):
        padded[n, : len(tokens)] = torch.tensor(tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(3, steps), pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    last = float("nan")
    for step in range(steps):
        batch = padded[torch.randint(len(padded), (32,), generator=generator)]
        goal = batch[:, 1:].masked_fill(batch[:, 1:] == 1, -100)
        loss = nn.functional.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), goal.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        last = float(loss.detach())
        report(step + 1, steps, f"loss {last:.2f}")
    save_lm(model.eval(), tokenizer, Path(path))
    return {"path": path, "loss": last, "parameters": sum(p.numel() for p in model.parameters())}


def _break(parts: list[str], own: Any) -> None:
    """Break a lesson in one of five ways."""
    think, call, information, answer = parts
    kind = own.randrange(5)
    if kind == 0:
        parts[0] = think.replace("</think>", "")
    elif kind == 1:
        parts[1] = call.replace("</route>", "")
    elif kind == 2:
        parts[3] = answer.replace("</answer>", "")
    elif kind == 3:
        parts[3] = information.strip() + answer
    else:
        parts[1] = call.replace(":", "2:", 1)


def run_writer(
    table_file: str,
    school: str,
    calibration: str,
    seed: int,
    steps: int,
    prompts: int,
    settings: Mapping[str, float],
) -> dict[str, Any]:
    """Train it by TRL, where one call of ten is lost, and judge it every few steps where none is.

    Args:
        table_file: file of the table.
        school: folder of the model that was taught the grammar.
        calibration: preset of the calibration.
        seed: seed of the rollouts, and of the half of the held-out questions that it is judged on.
        steps: number of steps.
        prompts: number of questions of a step.
        settings: weight of the `form` component, and `lr`.

    Returns:
        Curves of macro accuracy, of well-formed rollouts and of cost on questions that it did not see, the share of
        malformed rollouts while training, and what the curves say of stability.
    """
    import transformers

    from noria.core.models.loading import quiet_loading
    from noria.routing.integrations.trl import router_trainer

    torch.set_num_threads(1)
    table = import_table(Path(table_file))
    train, held = table.split(0.7, seed=0)
    held, _ = held.split(0.5, seed=seed)
    config = WriterTraining(
        calibration=calibration,
        steps=steps,
        prompts=prompts,
        group=8,
        turn_tokens=TURN,
        completion_tokens=ROOM,
        lr=settings["lr"],
        form=settings["form"],
        thrift=0.0,
        seed=seed,
        instruct=False,
    )
    limits, thrift = Limits(calls=2, information=INFORMATION), Thrift.of(table.cost)
    lossy = Environment(_LossyPool(ReplayPool(table), 0.1, seed), limits=limits, thrift=thrift)
    clean = Environment(ReplayPool(table), limits=limits, thrift=thrift)
    model, tokenizer = load_lm(Path(school))
    policy = WriterPolicy(model, tokenizer, config)
    unique = {read_by_router(q): q for q in train.questions}
    every = max(1, steps // 15)
    scores: list[WriterScore] = []

    with (
        asyncio.Runner() as runner,
        asyncio.Runner() as judging,
        tempfile.TemporaryDirectory() as folder,
        quiet_loading(transformers),
    ):
        trainer = router_trainer(
            policy,
            lossy,
            list(unique.values()),
            Path(folder),
            prompt=read_by_router,
            runner=runner,
            save_strategy="no",
        )

        class Judging(transformers.TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                self.judge()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if not state.global_step % every:
                    self.judge()
                    macro, form = scores[-1].score.macro, scores[-1].form
                    report(int(state.global_step), steps, f"macro {macro:.3f}, form {form:.2f}")

            def judge(self) -> None:
                current = replace(policy, model=trainer.model)
                scores.append(judging.run(judge_writer(current, clean, held, prompt=read_by_router)))

        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(Judging())
        trainer.train()
    forms = [1 - entry["rewards/form/mean"] for entry in trainer.state.log_history if "reward" in entry]
    paid = {"rollouts": steps * prompts * config.group, "settings": dict(settings)}
    return _outcome(scores, forms) | paid


def _outcome(scores: Sequence[WriterScore], malformed: Sequence[float]) -> dict[str, Any]:
    """Curves of the scores, and what they say at the end of a training."""
    accuracy = [result.score.macro for result in scores]
    costs = [result.score.cost for result in scores]
    return {
        "curves": {"macro": accuracy, "form": [result.form for result in scores], "cost": costs},
        "malformed": list(malformed),
        "malformed_late": float(np.mean(malformed[-max(1, len(malformed) // 5) :])),
        "macro": accuracy[-1],
        "area": float(np.mean(accuracy)),
        **stability(accuracy),
    }


class _LossyPool:
    """A pool that loses a share of the calls."""

    def __init__(self, pool: Asker, share: float, seed: int) -> None:

        self.pool, self.routes, self.share = pool, pool.routes, share
        self.generator = np.random.default_rng(seed)

    async def ask(self, route: Route, query: str, *, question: Question | None = None) -> Reply:
        """Ask the pool, and lose a share of the calls."""
        if self.generator.random() < self.share:
            return Reply(None, failure="server: told to fail")
        return await self.pool.ask(route, query, question=question)
