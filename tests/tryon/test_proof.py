"""The proof's world: cloth that follows the hand that holds it, clips that leak nothing, claims paid alike."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from noria.core.proofs.arms import unfair  # noqa: E402
from noria.tryon.proof.arms import ARMS, LIKE, QUICK, SCALES, SEEDS, TUNED_ON  # noqa: E402
from noria.tryon.proof.checks import identities, rays, ruler  # noqa: E402
from noria.tryon.proof.claims import CLAIMED, CLAIMS, claims  # noqa: E402
from noria.tryon.proof.learning import Arm, Scale, fold, micro_batch, new_model, train, unfold  # noqa: E402
from noria.tryon.proof.world.acting import HOVER, IDLE, REACH, SCRIPTS, simulate  # noqa: E402
from noria.tryon.proof.world.clips import VARIATIONS, hand_maps, make_clips, motions  # noqa: E402
from noria.tryon.proof.world.cloth import GAP, Cloth, rest_shape, torso  # noqa: E402


def lengths(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(points, axis=-2), axis=-1)


def test_a_garment_that_nobody_touches_hangs_still() -> None:
    cloth = Cloth.at_rest(1)
    for _ in range(20):
        cloth.step(np.zeros((1, 3), np.float32))
    assert np.abs(cloth.points - rest_shape()).max() < 0.05


def test_held_particles_move_with_the_hand_and_threads_keep_their_length() -> None:
    cloth = Cloth.at_rest(1)
    cloth.held[0, 5, 11] = True
    start = cloth.points[0, 5, 11].copy()
    for _ in range(20):
        cloth.step(np.array([[0.01, 0, 0.005]], np.float32))
    assert np.allclose(cloth.points[0, 5, 11], start + np.array([0.2, 0, 0.1]), atol=1e-5)
    stretch = lengths(cloth.points[0]) / lengths(rest_shape())
    assert np.median(stretch) == pytest.approx(1, abs=0.05)
    assert cloth.points[0, 5, 9, 0] > rest_shape()[5, 9, 0] + 0.03  # the neighbours follow


def test_cloth_does_not_enter_the_torso() -> None:
    result = simulate([*SCRIPTS], np.ones(6, np.bool_), np.random.default_rng(0))
    depth = result.points[..., 2] - torso(result.points[..., 0])
    assert depth.min() > GAP - 0.02


def test_an_action_needs_contact_and_a_hover_has_the_same_path() -> None:
    names = ["unzip", "hem", "stretch", "collar", "roll"]
    held = simulate(names, np.ones(5, np.bool_), np.random.default_rng(3))
    hover = simulate(names, np.zeros(5, np.bool_), np.random.default_rng(3))
    idle = simulate([IDLE], np.ones(1, np.bool_), np.random.default_rng(3)).points
    moved = np.abs(held.points - idle).max(axis=(1, 2, 3, 4))
    assert moved.min() > 0.2
    assert np.allclose(hover.points, idle, atol=1e-5)
    assert held.touched.max() < REACH
    assert hover.touched.min() > HOVER / 2
    rays = [m.joints[..., :2] / m.joints[..., 2:] for m in (held, hover)]
    assert np.allclose(*rays, atol=1e-5), "each joint is at the same pixel; only the depth differs"
    assert (held.joints[..., 2] - hover.joints[..., 2]).min() > 0.1


def test_an_open_zipper_parts_and_a_closed_one_does_not() -> None:
    points = simulate(["unzip", "hem"], np.ones(2, np.bool_), np.random.default_rng(0)).points[:, -1]
    gaps = points[:, :, 6, 0] - points[:, :, 5, 0]
    assert gaps[0, 2] > 2 * gaps[1, 2]


def test_no_picture_tells_the_order_of_captions() -> None:
    """In E1 everything but the captions is the same for all clips of a garment."""
    clips = make_clips(6, "captions", 0, "train")
    arm = Arm()
    batches = [micro_batch(clips, rows, arm) for rows in ([0, 1, 2], [3, 4, 5])]
    for batch in batches:
        assert batch.hands is None
        frames = batch.control[:, 12:, 1:]  # what is to be generated, and the mask
        assert torch.equal(frames, frames[:1].expand_as(frames))


def test_hover_and_contact_share_their_wrist_path_and_half_the_segments() -> None:
    clips = make_clips(40, "hands", 0, "judge")
    assert (clips.actions > 0).mean() == pytest.approx(0.5, abs=0.12)
    for name in ("hem", "stretch"):
        touch, hover = (hand_maps(name, contact, 0) for contact in (True, False))
        assert np.nanmax(np.abs(touch[2] - hover[2])) < 1e-2  # pixels
        assert hover[0][:, :, 0][hover[1]].mean() > touch[0][:, :, 0][touch[1]].mean() + 0.2  # nearer


def test_rare_actions_are_rare_and_a_ladders_hands_tell_half() -> None:
    sparse = make_clips(150, "sparse", 0, "train")
    assert (sparse.actions > 0).mean() == pytest.approx(0.0625, abs=0.035)
    assert not make_clips(20, "passive", 0, "train").actions.any()
    ladder, hands = (make_clips(60, task, 0, "judge") for task in ("ladder", "hands"))  # type: ignore[arg-type]
    seen = ladder.where.reshape(60, 4, -1).any(2).mean() / hands.where.reshape(60, 4, -1).any(2).mean()
    assert seen == pytest.approx(0.5, abs=0.15)
    assert (ladder.hands.transpose(0, 2, 1, 3, 4)[~ladder.where.any((2, 3))] == -1).all()
    assert np.isfinite(ladder.wrists).mean() == pytest.approx(np.isfinite(hands.wrists).mean(), abs=0.05)


def test_each_step_of_the_ladder_adds_one_thing() -> None:
    steps = [Arm(**arm) for name, arm in ARMS.items() if name.startswith("(")]
    assert len(steps) == 5
    changed = [
        {field for field, value in vars(after).items() if vars(before)[field] != value}
        for before, after in itertools.pairwise(steps)
    ]
    assert changed == [{"trained_on"}, {"sees"}, {"reads"}, {"constraint"}]


def test_judged_clips_have_colours_and_captions_that_no_training_clip_has() -> None:
    sides = [make_clips(80, "captions", 0, part) for part in VARIATIONS]
    for one, other in itertools.combinations(sides, 2):
        texts = [{text for row in side.captions for text in row if text} for side in (one, other)]
        assert texts[0]
        assert not texts[0] & texts[1]
        hues = [{tuple(np.round(c[0, 0], 3)) for c in side.colours} for side in (one, other)]
        assert not hues[0] & hues[1]
    spans = [set(range(*span)) for span in VARIATIONS.values()]
    assert not any(one & other for one, other in itertools.combinations(spans, 2))


def test_each_seed_has_a_world_of_its_own() -> None:
    first, second = (motions(world)["hem", True].points for world in (1, 2))
    assert np.abs(first - second).max() > 0.05


def test_folding_loses_nothing() -> None:
    video = torch.randn(2, 3, 4, 6, 8)
    assert torch.equal(unfold(fold(video)), video)


def test_the_checks_hold() -> None:
    assert all(check.holds for check in [*identities(), ruler(), rays()])


@pytest.mark.parametrize("name", ["A-RoPE", "(e) constraint"])
def test_an_arm_learns_something_in_a_few_steps(name: str) -> None:
    from noria.tryon.training.objective import flow_loss

    arm = Arm(**ARMS[name])
    clips = make_clips(8, arm.task, 0, "train")  # type: ignore[arg-type]
    model, losses = new_model(arm, 0), []
    for steps in (0, 25):
        train(model, arm, clips, Scale(steps=steps), 0, 2e-3)
        batch = micro_batch(clips, range(8), arm)
        noise = torch.randn(batch.clean.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            losses.append(float(flow_loss(model, batch, torch.full((8,), 0.5), noise)[0]))
    assert losses[1] < 0.8 * losses[0]


def table(seeds: int) -> dict[str, list[dict[str, Any]]]:
    draw = np.random.default_rng(0)
    metrics = ("segment_accuracy", "action_accuracy", "clip_accuracy", "action_error", "idle_share")
    return {arm: [{m: float(draw.uniform(0.2, 0.9)) for m in metrics} for _ in range(seeds)] for arm in ARMS}


def test_claims_compare_arms_that_were_paid_alike() -> None:
    made = claims(table(5), dict.fromkeys(ARMS, 1e-3), SCALES["full"], tuned=True)
    assert [claim.id for claim in made] == list(CLAIMS)
    for claim in made:
        assert claim.unfair(SEEDS["full"]) == []
        assert unfair(list(claim.paid.values()), SEEDS["full"]) == []
    assert not set(TUNED_ON) & set(SEEDS["full"])


def test_a_quick_proof_has_both_sides_of_its_claims() -> None:
    assert set(QUICK) <= CLAIMED
    assert ARMS.keys() - CLAIMED == LIKE.keys(), (
        "an arm is tuned for a claim, or takes the rate of one that is"
    )
    assert set(LIKE.values()) <= CLAIMED
    some = {name: rows for name, rows in table(1).items() if name in QUICK}
    made = claims(some, dict.fromkeys(ARMS, 1e-3), SCALES["quick"], tuned=False)
    e1, e2 = {"arope-level", "arope-bag", "arope-error"}, {"hands-level", "hands-wrist", "hands-idle"}
    assert {claim.id for claim in made} == e1 | e2
