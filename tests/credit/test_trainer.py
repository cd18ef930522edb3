"""Training with credit: it goes on to the bit, weighs what it should, and reads the very pass that it learns from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from noria.core.errors import CheckpointError, DataError, DivergenceError
from noria.core.runs.run import Run
from noria.credit.config import NAMES
from noria.credit.credit import TokenCredit
from noria.credit.proof.reasoner import accuracy, train_questions
from noria.credit.tasks.small import small_model
from noria.credit.training.config import TrainConfig
from noria.credit.training.trainer import CreditTrainer

SMALL: dict[str, Any] = {
    "prompts": 2,
    "group": 4,
    "max_new_tokens": 110,
    "lr": 1e-3,
    "answer": "hash",
    "micro_batch": 3,
}


def trainer(**settings: Any) -> CreditTrainer:
    model, tokenizer = small_model("start")
    return CreditTrainer(
        model, tokenizer, train_questions("chains", 6, seed=5), TrainConfig(**SMALL | settings)
    )


def weights(of: CreditTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in of.model.parameters()]


def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path: Path) -> None:
    config = {"checkpoint_every": 2, "credit": "flow"}
    whole = trainer(steps=4, **config)
    with Run.open(tmp_path / "whole", config={}, versions={}) as run:
        whole.train(run)
    for steps in (3, 4):  # stopped behind a checkpoint: the third step is made again
        part = trainer(steps=4, **config)
        with Run.open(tmp_path / "parts", config={}, versions={}) as run:
            if steps == 3:
                part.updates.resume(run)
                while part.step < 3:
                    learned = part.advance()
                    run.log(learned.step, **learned.figures)
                    if part.step % 2 == 0:
                        part.updates.state.save(run)
            else:
                part.train(run)
    assert part.step == 4
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(part), strict=True))
    logs = []
    for name in ("whole", "parts"):
        with Run.open(tmp_path / name, config={}, versions={}) as run:
            logs.append([{k: v for k, v in row.items() if "seconds" not in k} for row in run.metrics()])
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == [1, 2, 3, 4]
    assert "credit/conservation" in logs[0][0]


def test_weights_of_the_learning_pass_are_those_of_a_pass_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here = trainer(credit="flow")
    assert here.credit.reads
    passes: list[str] = []
    original = TokenCredit.score
    monkeypatch.setattr(
        TokenCredit, "score", lambda self, *a, **k: passes.append("own") or original(self, *a, **k)
    )
    here.advance()
    assert passes == []
    before = trainer(credit="flow", credit_settings={"within": "group"})
    before.advance()
    assert passes == ["own"]
    apart = trainer(credit="flow")
    monkeypatch.setattr(TokenCredit, "reads", property(lambda self: self.config.signal != "flow"))
    monkeypatch.setattr(TokenCredit, "_one_pass", _with_reads(TokenCredit._one_pass))
    apart.advance()
    assert passes == ["own", "own"]
    for a, b in zip(weights(here), weights(apart), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def _with_reads(original: Callable[..., Any]) -> Callable[..., Any]:
    """A pass of its own that reads attention although it was told that nothing is to be read."""

    def passed(self: TokenCredit, model: Any, traces: Any, step: int) -> Any:
        tap = self.tap(model, lambda: traces.sequence)
        from noria.credit.passes import evaluating, inputs_of

        with evaluating(model), torch.no_grad(), tap:
            model(**inputs_of(traces))
        return self.from_read(tap.passes[0]["read"], traces)

    return passed


def test_credit_changes_what_is_learned_and_even_credit_is_plain_grpo() -> None:
    learned = {}
    for name in ("none", "flow", "uniform"):
        one = trainer(credit=name)
        for _ in range(2):
            figures = one.advance().figures
        learned[name] = weights(one)
        assert 0 <= figures["reward"] <= 1
    assert not all(torch.equal(a, b) for a, b in zip(learned["none"], learned["flow"], strict=True))
    gamma_one = trainer(credit="flow", credit_settings={"gamma": 1.0})
    for _ in range(2):
        gamma_one.advance()
    for a, b in zip(learned["none"], weights(gamma_one), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"none", "flow", "uniform", "oar_p", "attention_flow"}))
def test_every_credit_trains(name: str) -> None:
    one = trainer(credit=name, max_new_tokens=120)
    for _ in range(3):
        figures = one.advance().figures
        if "credit/mean_weight" in figures:
            return
    pytest.fail("no group had a signal")


def test_every_question_is_asked_once_an_epoch() -> None:
    one = trainer(prompts=3)
    asked = [one.chosen(step) for step in range(4)]
    assert sorted(asked[0] + asked[1]) == sorted(asked[2] + asked[3]) == list(range(6))
    assert asked[0] + asked[1] != asked[2] + asked[3]


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    model, tokenizer = small_model("start")
    with pytest.raises(DataError, match="no questions"):
        CreditTrainer(model, tokenizer, [], TrainConfig(**SMALL))
    one = trainer()
    tensors, state = one.updates.state.tensors(), one.updates.state.values()
    tensors = {name: t[:1] if "embed" in name else t for name, t in tensors.items()}
    with Run.open(tmp_path / "run", config={}, versions={}) as run:
        run.save(1, tensors, state)
        with pytest.raises(CheckpointError, match="not this policy's"):
            one.updates.resume(run)
    with torch.no_grad():
        next(one.model.parameters()).fill_(torch.nan)
    with pytest.raises(DivergenceError):
        one.advance()


def test_the_start_can_do_what_it_often_draws_otherwise() -> None:
    model, tokenizer = small_model("start")
    asked = train_questions("chains", 64, seed=9)
    assert accuracy(model, tokenizer, asked) > 0.9
    assert 0.3 < accuracy(model, tokenizer, asked, temperature=1.0) < 0.7
