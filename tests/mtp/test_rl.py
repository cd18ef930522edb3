"""Policy optimisation with drafted rollouts: identities of the objective, frozen and online heads, resume."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from noria.core.errors import CheckpointError, DataError, DivergenceError
from noria.core.runs.run import Run, read_metrics
from noria.core.statistics.intervals import Interval
from noria.core.training.rl import group_advantages
from noria.mtp.rl.config import RLConfig
from noria.mtp.rl.monitors import DriftMonitor, EntropyMonitor
from noria.mtp.rl.policy import PolicyTrainer, StepResult
from tests.mtp.tiny_models import head_of, tiny

PROMPTS = [[3, 5, 7], [11, 2], [4, 9, 1, 6]]
LUCKY = 8


def luck(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[float]:
    """The share of one token."""
    return [sum(token == LUCKY for token in c) / len(c) for c in completions]


def trainer(reward: Any = luck, *, drafts: bool = True, more: Any = None, **settings: Any) -> PolicyTrainer:
    model = tiny("qwen3")
    base = {"steps": 3, "prompts": 2, "group": 4, "max_new_tokens": 6, "gamma": 2, "lr": 1e-3}
    head = head_of(model, "qwen3") if drafts else None
    return PolicyTrainer(model, head, PROMPTS, reward, RLConfig(**base | settings), eos=[], **more or {})


def steps_of(t: PolicyTrainer, run: Run | None = None) -> list[StepResult]:
    done: list[StepResult] = []
    t.train(run, on_step=done.append)
    return done


def weights(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("rule", ["rejection", "target_only", "block"])
def test_on_its_own_text_the_gradient_is_the_policy_gradient(rule: str) -> None:
    """Σ A ∇ log p / tokens, whatever drafted the text; the ratio is 1 since log-probabilities are the policy's."""
    t = trainer(rule=rule, steps=1, grad_clip=1e9, temperature=0.8, micro_batch=3)
    before = copy.deepcopy(t.model)
    caught: dict[str, torch.Tensor] = {}

    def keep(*_: Any) -> None:
        caught.update({n: p.grad.clone() for n, p in t.model.named_parameters()})

    t.updates["policy"].adam.register_step_pre_hook(keep)
    seen: list[Any] = []
    learn = t.learn
    t.learn = lambda batch: (seen.append(batch), learn(batch))[1]  # type: ignore[method-assign]
    (learned,) = steps_of(t)
    assert learned.figures["kl_behaviour"] == pytest.approx(0, abs=1e-6)
    assert learned.figures["clipped"] == 0
    (batch,) = seen
    gains = group_advantages(torch.tensor(batch.rewards), torch.arange(len(batch.rewards)) // 4)
    total = sum(len(c.tokens) for c in batch.completions)
    loss = torch.zeros(())
    for prompt, completion, gain in zip(batch.prompts, batch.completions, gains, strict=True):
        logits = before(torch.tensor([[*prompt, *completion.tokens]])).logits[0, len(prompt) - 1 : -1] / 0.8
        logp = logits.log_softmax(-1)[range(len(completion.tokens)), completion.tokens]
        assert completion.logprobs == pytest.approx(logp.tolist(), abs=1e-4)
        loss = loss - gain * logp.sum() / total
    loss.backward()
    for name, p in before.named_parameters():
        torch.testing.assert_close(caught[name], p.grad, rtol=1e-3, atol=1e-6)


def test_a_frozen_head_stays_and_an_online_one_has_an_optimiser_of_its_own() -> None:
    frozen, online = trainer(), trainer(head="online", head_lr=1e-2)
    first = weights(frozen.head)
    steps_of(frozen)
    done = steps_of(online)
    assert same(weights(frozen.head), first)
    assert not same(weights(online.head), first)
    assert {"head_loss", "grad_norm_head", "grad_norm_policy"} <= done[0].figures.keys()
    # Rollouts and policy of the first step do not know of the head's training.
    one, other = trainer(steps=1), trainer(steps=1, head="online", head_lr=1.0)
    steps_of(one)
    steps_of(other)
    assert same(weights(one.model), weights(other.model))


def test_logs_say_what_was_served() -> None:
    plain = steps_of(trainer(drafts=False, steps=1))[0].figures
    drafted = steps_of(trainer(steps=1))[0].figures
    assert "accept_length" not in plain
    rates = [drafted["prefix_rate_1"], drafted["prefix_rate_2"]]
    assert all(0 <= rate <= 1 for rate in rates)
    assert drafted["accept_length"] == pytest.approx(1 + sum(rates))
    for figures in (plain, drafted):
        assert figures["tokens"] == 2 * 4 * 6
        assert {"rollout_seconds", "score_seconds", "learn_seconds"} <= figures.keys()


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_batch_waits_as_long_as_it_is_told(staleness: int) -> None:
    done = steps_of(trainer(staleness=staleness, steps=5))
    assert [d.figures["staleness"] for d in done] == [min(s, staleness) for s in range(5)]
    if staleness:
        assert done[-1].figures["kl_behaviour"] > 1e-7  # the policy has moved on from who wrote it


def test_killed_it_goes_on_to_the_bit(tmp_path: Path) -> None:
    settings = {"staleness": 1, "head": "online", "head_lr": 1e-3, "checkpoint_every": 2}
    whole = trainer(steps=4, **settings)
    steps_of(whole)
    first = trainer(steps=2, **settings)
    with Run.open(tmp_path / "run", config={}) as run:
        steps_of(first, run)
    again = trainer(steps=4, **settings)
    with Run.open(tmp_path / "run", config={}) as run:
        later = steps_of(again, run)
        assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
    assert [d.step for d in later] == [3, 4]
    assert same(weights(again.model), weights(whole.model))
    assert same(weights(again.head), weights(whole.head))

    other = trainer(steps=4, head="online")
    other.updates["policy"].state.parameters = {"another": next(other.model.parameters())}
    with Run.open(tmp_path / "run", config={}) as run, pytest.raises(CheckpointError, match="another"):
        other.resume(run)


def test_it_learns_what_it_is_paid_for() -> None:
    done = steps_of(trainer(steps=25, lr=3e-3, group=8, grad_clip=10.0))
    rewards = [d.figures["reward"] for d in done]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5


def test_the_bonus_moves_entropy_both_ways() -> None:
    def last(bonus: float) -> float:
        flat = trainer(lambda p, c: [0.0] * len(c), steps=12, lr=3e-3, entropy_bonus=bonus)
        return steps_of(flat)[-1].figures["entropy"]

    assert last(1.0) > last(-1.0) + 0.2


def test_monitors_are_asked_every_step() -> None:
    drift = DriftMonitor([Interval(0.99, 0.99, 0.99, 100), Interval(0.98, 0.98, 0.98, 100)], window=3)
    watched = trainer(more={"drift": drift, "entropy_range": EntropyMonitor(50, 60, patience=2)})
    kinds = [{alarm.kind for alarm in d.alarms} for d in steps_of(watched)]
    assert "entropy" not in kinds[0]
    assert "entropy" in kinds[1]
    assert kinds[-1] & {"unsynced", "drift"}


def test_alarms_stand_in_the_log(tmp_path: Path) -> None:
    watched = trainer(steps=2, more={"entropy_range": EntropyMonitor(50, 60, patience=2)})
    with Run.open(tmp_path, config={}) as run:
        watched.train(run)
    first, second = read_metrics(tmp_path)
    assert "alarms" not in first
    assert "outside the 50.000" in second["alarms"][0]


@pytest.mark.parametrize(
    "reward", [lambda p, c: [1.0], lambda p, c: [float("nan")] * len(c)], ids=["too few", "not finite"]
)
def test_a_reward_that_is_none_stops_the_step_and_leaves_the_policy(reward: Any) -> None:
    t = trainer(reward)
    before = weights(t.model)
    with pytest.raises(DataError, match="rewards"):
        t.advance()
    assert same(weights(t.model), before)


def test_a_policy_that_blew_up_is_told_before_it_learns() -> None:
    t = trainer()
    with torch.no_grad():
        t.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="not finite"):
        t.advance()
