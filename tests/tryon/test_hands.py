"""Hands: what a file may hold, what is repaired, and maps that say how far a hand is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from noria.core.errors import DataError
from noria.tryon.hands.rendering import render
from noria.tryon.hands.repair import between, misaligned, repair
from noria.tryon.hands.synthetic import hand
from noria.tryon.hands.track import BONES, HandTrack, checked_track, read_hands, write_hands

CAMERA = np.array([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]])
SIZE = (48, 64)


def track(frames: int = 12, depth: float = 0.6) -> HandTrack:
    joints = np.zeros((frames, 2, 21, 3), np.float32)
    for t in range(frames):
        joints[t, 0] = hand(np.array([-0.1, 0.05 + 0.004 * t, depth]), mirror=True)
        joints[t, 1] = hand(np.array([0.1, 0.05 + 0.004 * t, depth]))
    return HandTrack(joints, np.ones((frames, 2), np.bool_), CAMERA)


def seconds(frames: int = 12) -> np.ndarray:
    return np.arange(frames) / 30


def lengths(joints: np.ndarray) -> np.ndarray:
    return np.stack([np.linalg.norm(joints[..., b, :] - joints[..., a, :], axis=-1) for a, b in BONES], -1)


def test_a_track_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "h.npz"
    path.write_bytes(write_hands(track()))
    again = read_hands(path, 12, SIZE)
    assert np.array_equal(again.joints, track().joints)
    assert again.dropped == 0


def test_hands_that_cannot_be_are_dropped_and_counted() -> None:
    joints = track().joints
    joints[2, 0, 5, 1] = np.nan
    joints[3, 1, :, 2] = -0.5  # behind the camera
    checked = checked_track(joints, np.ones((12, 2)), CAMERA)
    assert checked.dropped == 2
    assert not checked.valid[2, 0]
    assert not checked.valid[3, 1]
    assert np.isfinite(checked.joints).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints": np.zeros((5, 2, 21, 3))}, "5 frames"),
        ({"joints": np.zeros((12, 21, 3))}, "shape"),
        ({"joints": np.array([{}], dtype=object)}, "npz"),
        ({"valid": np.ones(12)}, "valid"),
        ({"K": np.zeros((3, 3))}, "K is"),
    ],
    ids=["length", "shape", "objects", "valid", "camera"],
)
def test_files_that_are_no_hands_are_refused(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    good = {"joints": track().joints, "valid": np.ones((12, 2)), "K": CAMERA}
    np.savez(tmp_path / "h.npz", **good | change)
    with pytest.raises(DataError, match=message):
        read_hands(tmp_path / "h.npz", 12, SIZE)


def test_exchanged_sides_are_put_right_once() -> None:
    given = track()
    given.joints[6] = given.joints[6, ::-1].copy()
    result = repair(given, seconds())
    assert result.swapped == 1
    assert np.abs(result.track.joints - track().joints).max() < 0.02


def lone(labels: str, step: float = 0.01) -> HandTrack:
    """A right hand alone that moves by a step in metres a frame; labels are r, l, and - for not seen."""
    joints, valid = np.zeros((len(labels), 2, 21, 3), np.float32), np.zeros((len(labels), 2), np.bool_)
    for t, label in enumerate(labels):
        if label != "-":
            joints[t, "lr".index(label)] = hand(np.array([step * t, 0.0, 0.6]))
            valid[t, "lr".index(label)] = True
    return HandTrack(joints, valid, CAMERA)


@pytest.mark.parametrize("labels", ["rrllrr", "lrrrrr", "rrrrrl", "rr-lrr", "lrrlrlrr"])
def test_a_hand_alone_keeps_the_label_of_most_of_its_frames(labels: str) -> None:
    given = lone(labels)
    result = repair(given, seconds(len(labels)), longest_gap=0)
    assert not result.track.valid[:, 0].any()
    assert result.track.valid[:, 1].tolist() == [label != "-" for label in labels]
    assert result.swapped == labels.count("l")
    assert np.abs(result.track.joints[-1, 1] - given.joints[-1].sum(0)).max() < 0.02


def test_hands_that_are_seen_one_after_the_other_far_apart_stay_two() -> None:
    given = lone("rrrrrlllll")
    given.joints[5:, 0, :, 0] += 0.3
    result = repair(given, seconds(10))
    assert result.swapped == 0
    assert np.array_equal(result.track.valid, given.valid)


def test_a_fast_hand_alone_is_not_taken_for_one_never_seen() -> None:
    assert repair(lone("rrrrrr", step=0.25), seconds(6)).swapped == 0


def test_a_hand_that_moves_to_where_the_other_vanished_stays_itself() -> None:
    given = lone("r" * 16, step=0)
    given.joints[:8, 1, :, 0] -= 0.03
    given.joints[0, 0], given.valid[0, 0] = given.joints[8, 1], True
    result = repair(given, seconds(16))
    assert result.swapped == 0
    assert result.track.valid[:, 1].all()


def test_two_hands_exchanged_in_their_first_frame_follow_the_others() -> None:
    given = track()
    given.joints[0] = given.joints[0, ::-1].copy()
    result = repair(given, seconds())
    assert result.swapped == 1
    assert np.abs(result.track.joints - track().joints).max() < 0.02


def test_two_hands_that_come_back_exchanged_after_a_gap_are_put_right() -> None:
    given = track(24)
    given.valid[4:12] = False
    given.joints[12:14] = given.joints[12:14, ::-1].copy()
    result = repair(given, seconds(24), longest_gap=0)
    assert result.swapped == 2
    assert np.abs(result.track.joints[12:] - track(24).joints[12:]).max() < 0.02


def test_short_gaps_are_filled_with_bones_of_their_length_and_long_ones_stay() -> None:
    given = track(20)
    given.valid[5:8, 0] = False
    given.valid[5:15, 1] = False
    result = repair(given, seconds(20), longest_gap=5)
    assert (result.filled, result.missing) == (3, 10)
    assert np.allclose(lengths(result.track.joints[6, 0]), lengths(given.joints[4, 0]), atol=1e-3)


def test_between_two_hands_a_turned_bone_keeps_its_length() -> None:
    one = hand(np.zeros(3), direction=-1.5, curl=0.0)
    other = hand(np.zeros(3), direction=-0.5, curl=0.4)
    assert np.allclose(lengths(between(one, other, 0.4)), lengths(one), atol=1e-6)
    assert np.allclose(between(one, other, 0.0), one, atol=1e-6)
    assert np.allclose(between(one, other, 1.0), other, atol=1e-6)


def test_jitter_falls_and_a_fast_move_passes() -> None:
    draw = np.random.default_rng(0)
    still = track(60)
    still.joints[:] = still.joints[0]
    noisy = HandTrack(
        (still.joints + draw.normal(0, 0.002, still.joints.shape)).astype(np.float32), still.valid, CAMERA
    )
    smooth = repair(noisy, seconds(60)).track.joints
    assert (
        np.abs(smooth[30:] - still.joints[30:]).mean()
        < 0.75 * np.abs(noisy.joints[30:] - still.joints[30:]).mean()
    )
    moved = track(60)
    moved.joints[30:, ..., 0] += 0.3
    followed = repair(moved, seconds(60)).track.joints
    assert np.abs(followed[33] - moved.joints[33]).max() < 0.03


def test_the_map_has_the_depth_of_the_hand_and_nothing_elsewhere() -> None:
    planes = (0.3, 1.2)
    near, where = render(track(1, 0.5), SIZE, planes)
    far, far_where = render(track(1, 0.9), SIZE, planes)
    assert where.any()
    assert not where.all()
    assert bool((near[0][:, ~where[0]] == -1).all())
    assert near[0, 0][where[0]].mean() > far[0, 0][far_where[0]].mean()
    assert where.sum() > far_where.sum()
    # the inverse depth of the skin, a radius before the wrist
    x, y = (CAMERA @ track(1, 0.5).joints[0, 1, 0])[:2] / 0.5
    inverse = (1 / (0.5 - 0.009) - 1 / 1.2) / (1 / 0.3 - 1 / 1.2)
    assert near[0, 0, int(y), int(x)] == pytest.approx(2 * inverse - 1, abs=0.02)


def test_a_hand_off_the_person_is_named() -> None:
    person = np.zeros((12, *SIZE), np.bool_)
    person[:, :, 32:] = True  # the right half
    found = misaligned(track(), person)
    assert {side for _, side, _ in found} == {0}
    assert len(found) == 12
