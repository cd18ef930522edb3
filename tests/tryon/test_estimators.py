"""Hands, poses and persons by MediaPipe's networks: the mathematics on made-up tensors, the networks where they are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

pytest.importorskip("torch")
pytest.importorskip("av")

import noria.cli
from noria.core.assets import find_asset
from noria.core.errors import DataError
from noria.tryon.estimators import drawing
from noria.tryon.estimators.crops import Crop, around, upright_angle
from noria.tryon.estimators.detection import PALMS, POSES, Detector, anchors, detections
from noria.tryon.estimators.following import assigned, choose, clip_camera, follow, follow_hands, hand_parts
from noria.tryon.estimators.hands import Hand, HandEstimator, lifted, next_crop
from noria.tryon.estimators.persons import Body, PersonEstimator, body_crop
from noria.tryon.hands.rendering import render
from noria.tryon.hands.synthetic import hand
from noria.tryon.hands.track import HandTrack, read_hands
from noria.tryon.video.clips import Clip, encode_clip, read_clip

SIZE = (240, 320)
CAMERA = clip_camera(SIZE, 60)


# --- detection ----------------------------------------------------------------------------------------------


def test_anchors_are_two_a_cell_of_each_layer_in_its_middle() -> None:
    palms, poses = anchors(PALMS), anchors(POSES)
    assert (len(palms), len(poses)) == (2016, 2254)  # what the networks give numbers for
    assert palms[0] == pytest.approx([0.5 / 24, 0.5 / 24])
    assert palms[2] - palms[0] == pytest.approx([1 / 24, 0])
    assert palms[1152] == pytest.approx([0.5 / 12, 0.5 / 12])  # after 24 · 24 · 2
    assert palms[1158] - palms[1152] == pytest.approx([1 / 12, 0])


def test_a_detection_is_an_offset_in_pixels_from_its_anchor_and_overlapping_ones_are_averaged() -> None:
    tiny = Detector(side=32, strides=(8, 16), points=2)
    middles = anchors(tiny)
    raw, logits = np.zeros((len(middles), 8)), np.full(len(middles), -20.0)
    box = np.array([0.5, 0.5, 0.25, 0.25])  # middle, width, height
    points = np.array([0.4, 0.4, 0.6, 0.3])
    near = np.flatnonzero((np.abs(middles - 0.5) < 0.2).all(1))[:2]
    for row, shift, score in ((near[0], 0.0, 3.0), (near[1], 0.04, 1.0)):
        place = np.tile(middles[row], 2)
        raw[row, :2] = (box[:2] + shift - middles[row]) * 32
        raw[row, 2:4] = box[2:] * 32
        raw[row, 4:] = (points + shift - place) * 32
        logits[row] = score
    far = int(np.argmin(np.abs(middles - 0.1).sum(1)))
    raw[far, 2:4], logits[far] = 4, 0.1
    one, other = detections(raw, logits, tiny)
    a, b = (1 / (1 + math.exp(-score)) for score in (3.0, 1.0))
    shift = 0.04 * b / (a + b)
    assert one.box == pytest.approx([0.375 + shift] * 2 + [0.625 + shift] * 2)
    assert one.points.reshape(-1) == pytest.approx(points + shift)
    assert one.score == pytest.approx(a)
    assert other.box.mean() == pytest.approx(middles[far].mean())
    with pytest.raises(ValueError, match="anchors"):
        detections(raw[1:], logits[1:], tiny)


# --- crops --------------------------------------------------------------------------------------------------


def test_a_crop_stands_upright_and_the_way_back_is_the_inverse() -> None:
    wrist, finger = np.array([100.0, 80.0]), np.array([130.0, 60.0])
    crop = Crop((110.0, 70.0), 90.0, upright_angle(wrist, finger))
    low, high = crop.from_frame(np.stack([wrist, finger]))
    assert low[0] == pytest.approx(high[0])
    assert high[1] < low[1]
    points = np.random.default_rng(0).uniform(-50, 300, (7, 2))
    assert crop.to_frame(crop.from_frame(points)) == pytest.approx(points)
    moved = crop.moved(0, -0.5, 2.6)
    assert crop.from_frame(np.array(moved.centre)) == pytest.approx([0.5, 0.0])
    least = around(points, 0.4)
    assert least.from_frame(points).min() >= -1e-9
    assert np.ptp(least.from_frame(points), axis=0).max() == pytest.approx(1.0)


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.5])
def test_what_is_cut_from_a_frame_is_pasted_back_where_it_was(angle: float) -> None:
    rows, columns = np.mgrid[:120, :160]
    spot = np.exp(-((columns + 0.5 - 90) ** 2 + (rows + 0.5 - 47) ** 2) / 60)
    frame = np.repeat((255 * spot[..., None]).astype(np.uint8), 3, axis=2)
    for side, size in ((100.0, 96), (300.0, 64)):  # without and with averaging of pixels before
        crop = Crop((80.0, 60.0), side, angle)
        cut = crop.cut(frame, size)[..., 0]
        v, u = np.mgrid[:size, :size] + 0.5
        centre = np.array([(cut * u).sum(), (cut * v).sum()]) / cut.sum() / size
        assert crop.to_frame(centre) == pytest.approx([90, 47], abs=0.7)
        back = crop.paste(cut, (120, 160))
        at = np.array([(back * (columns + 0.5)).sum(), (back * (rows + 0.5)).sum()]) / back.sum()
        assert at == pytest.approx([90, 47], abs=0.7)
        assert side > 100 or np.abs(back - spot)[30:70, 70:110].max() < 0.05


# --- hands --------------------------------------------------------------------------------------------------


def test_joints_in_metres_and_their_pixels_give_the_place_before_the_camera() -> None:
    joints = hand(np.array([0.07, -0.04, 0.63])).astype(float)
    seen = joints @ CAMERA.T
    around_middle = joints - joints.mean(0)
    assert lifted(around_middle, seen[:, :2] / seen[:, 2:], CAMERA) == pytest.approx(joints, abs=1e-9)


def some_hand(wrist: Sequence[float], right: float) -> Hand:
    pixels = np.tile(np.array(wrist, float), (21, 1))
    pixels[5:] += [[10.0, -40.0]]
    return Hand(pixels, np.zeros((21, 3)), right, next_crop(pixels), 0.9)


def standing(x: float = 160.0) -> NDArray[np.float64]:
    """A body that faces the camera, all of it in sight."""
    joints = np.full((33, 3), 0.9)
    places = {0: (0, 40), 2: (5, 35), 5: (-5, 35), 7: (10, 38), 8: (-10, 38), 9: (4, 46), 10: (-4, 46),
              11: (25, 70), 12: (-25, 70), 13: (35, 105), 14: (-35, 105), 15: (38, 138), 16: (-38, 138),
              23: (16, 130), 24: (-16, 130), 25: (18, 175), 26: (-18, 175), 27: (18, 220), 28: (-18, 220)}  # fmt: skip
    for joint, (across, down) in places.items():
        joints[joint, :2] = x + across, down
    return joints


def test_hands_at_a_bodys_wrists_are_its_hands_whatever_the_network_says_of_the_side() -> None:
    body, crop = standing(), body_crop(np.array([160.0, 130.0]), np.array([160.0, 20.0]))
    left, right, foreign = some_hand((200, 140), 0.8), some_hand((120, 139), 0.9), some_hand((30, 60), 0.1)
    assert assigned([foreign, left, right], body, crop) == (left, right)
    assert assigned([foreign], body, crop) == (None, None)
    assert assigned([left, right], None, None) == (left, right)  # both say right, .8 less than .9
    assert assigned([foreign], None, None) == (foreign, None)
    parts = hand_parts(body, crop)
    assert all(
        (part.from_frame(body[wrist, :2]) > 0).all() for part, wrist in zip(parts, (15, 16), strict=True)
    )


def photographed(
    joints: NDArray[np.float32], back: NDArray[np.uint8], camera: NDArray[np.float64]
) -> Image.Image:
    """A hand of capsules in the colour of skin before a picture."""
    track = HandTrack(joints[None, None].repeat(2, 1), np.array([[False, True]]), camera)
    video, where = render(track, back.shape[:2])
    picture = Image.fromarray(back)
    palm = track.projected()[0, 1, [0, 1, 5, 9, 13, 17]]
    ImageDraw.Draw(picture).polygon([tuple(at) for at in palm], fill=(224, 172, 140))
    towards = np.sqrt(np.clip(1 - video[0, 1] ** 2 - video[0, 2] ** 2, 0, 1))[..., None]
    skin = np.array([224, 172, 140]) * (0.55 + 0.45 * towards)
    picture = Image.fromarray(np.where(where[0][..., None], skin, np.asarray(picture)).astype(np.uint8))
    return picture.filter(ImageFilter.GaussianBlur(1.2))


networks = pytest.mark.skipif(find_asset("mediapipe") is None, reason="needs `noria assets mediapipe`")


@networks
@pytest.mark.parametrize("mirror", [False, True])
def test_the_networks_read_a_hand_of_the_simulator(mirror: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr("noria.tryon.hands.rendering.RADIUS", 0.011)
    camera = clip_camera((480, 640), 60)
    joints = hand(np.array([0, 0.08, 0.5]), direction=-0.9, mirror=mirror)
    back = np.full((480, 640, 3), (90, 110, 120), np.uint8)
    (seen,) = HandEstimator().hands(np.asarray(photographed(joints, back, camera)))
    assert (seen.right < 0.3) if mirror else (seen.right > 0.7)
    truth = joints @ camera.T
    assert np.abs(seen.pixels - truth[:, :2] / truth[:, 2:]).mean() < 8
    across, down = (seen.metres[9] - seen.metres[0])[:2]
    assert math.atan2(down, across) == pytest.approx(
        -0.9, abs=0.3
    )  # turned as in the frame, not as in the crop
    assert lifted(seen.metres, seen.pixels, camera)[0] == pytest.approx(joints[0], abs=0.12)


@networks
def test_a_closing_hand_is_followed_and_a_frame_without_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr("noria.tryon.hands.rendering.RADIUS", 0.011)
    camera, back = clip_camera((480, 640), 60), np.full((480, 640, 3), (90, 110, 120), np.uint8)
    joints = [hand(np.array([-0.05 + 0.03 * k, 0.08, 0.5]), curl=0.1 + 0.15 * k) for k in range(5)]
    frames = np.stack([np.asarray(photographed(places, back, camera)) for places in joints])
    frames[2] = back
    clip = Clip(frames, np.arange(5) / 10, 0.5, Path("closing.mp4"))
    track, counts = follow_hands(clip, HandEstimator(), camera, None, lambda: None)
    assert track.valid.tolist() == [[False, k != 2] for k in range(5)]
    assert (counts.seen, counts.frames, counts.others, track.dropped) == (4, 4, 0, 0)
    assert not track.joints[2].any()
    for k in (0, 1, 3, 4):
        truth = joints[k] @ camera.T
        assert np.abs(track.projected()[k, 1] - truth[:, :2] / truth[:, 2:]).mean() < 15
        assert track.joints[k, 1, 0, 2] == pytest.approx(0.5, abs=0.2)


# --- persons ------------------------------------------------------------------------------------------------


def some_body(x: float, size: float = 30.0) -> Body:
    mask = np.zeros(SIZE, np.float32)
    mask[40:220, int(x - size) : int(x + size)] = 1
    crop = body_crop(np.array([x, 130.0]), np.array([x, 130.0 - 2 * size]))
    return Body(standing(x), mask, crop, 0.9)


def test_a_person_among_several_is_chosen_or_the_clip_is_refused() -> None:
    bodies = [some_body(60), some_body(160, 40), some_body(260)]
    with pytest.raises(
        DataError, match=r"3 persons are in sight \(1 at 60,130; 2 at 160,130; 3 at 260,130\)"
    ):
        choose(bodies, None)
    assert choose(bodies[:1], None) is bodies[0]
    assert choose(bodies, "largest") is bodies[1]
    assert choose(bodies, "3") is bodies[2]
    assert choose(bodies, "65,100") is bodies[0]
    for wrong in ("4", "5,5", "1000,10"):
        with pytest.raises(DataError, match="no person"):
            choose(bodies, wrong)


class Scripted(PersonEstimator):
    """Two persons who walk by one another's side; the first is lost in frame 2, and stands elsewhere after it."""

    def __init__(self) -> None:
        self.frame = -1

    def everyone(self, frame: NDArray[np.uint8]) -> list[Body]:
        self.frame = int(frame[0, 0, 0])
        return [some_body(80), some_body(240)] if self.frame else []

    def detect(self, frame: NDArray[np.uint8]) -> list[Crop]:
        self.frame = int(frame[0, 0, 0])
        here = [some_body(240).crop]
        return here if self.frame == 2 else [*here, some_body(100).crop]

    def read(self, frame: NDArray[np.uint8], crop: Crop) -> Body | None:
        self.frame = int(frame[0, 0, 0])
        lost = self.frame in (2, 3) and crop.centre[0] < 100
        return None if lost else some_body(crop.centre[0])


def test_the_chosen_person_is_followed_by_overlap_and_misses_are_counted_and_empty() -> None:
    frames = np.zeros((5, *SIZE, 3), np.uint8)
    frames[:, 0, 0, 0] = range(5)
    clip = Clip(frames, np.arange(5) / 10, 0.5, Path("walk.mp4"))
    calls: list[int] = []
    track = follow(clip, Scripted(), "1", lambda: calls.append(1))
    centres = [crop and crop.centre[0] for crop in track.crops]
    assert centres == [None, 80, None, 100, 100]  # never 240, who is the other one
    assert (track.missed, track.others, len(calls)) == (2, 1, 5)
    assert np.isnan(track.joints[[0, 2]]).all()
    assert not track.masks[[0, 2]].any()
    assert track.masks[3].any()
    with pytest.raises(DataError, match="no person in its 1 frames"):
        follow(Clip(frames[:1], np.zeros(1), 0.1, Path("x")), Scripted(), None, lambda: None)


class Cut(Scripted):
    """One person, who is on the other side after a cut; in the last frame two are there."""

    def everyone(self, frame: NDArray[np.uint8]) -> list[Body]:
        return [some_body(60)]

    def detect(self, frame: NDArray[np.uint8]) -> list[Crop]:
        return [some_body(260).crop] if frame[0, 0, 0] < 2 else [some_body(250).crop, some_body(160).crop]

    def read(self, frame: NDArray[np.uint8], crop: Crop) -> Body | None:
        return some_body(crop.centre[0]) if crop.centre[0] > 100 and frame[0, 0, 0] in (1, 3) else None


def test_a_person_who_was_alone_is_taken_after_a_cut_where_nobody_else_is() -> None:
    for numbers, expected in (([0, 1], [60, 260]), ([0, 3], [60, None])):
        frames = np.zeros((2, *SIZE, 3), np.uint8)
        frames[:, 0, 0, 0] = numbers
        clip = Clip(frames, np.arange(2) / 10, 0.2, Path("cut.mp4"))
        track = follow(clip, Cut(), None, lambda: None)
        assert [crop and crop.centre[0] for crop in track.crops] == expected


def test_a_skeleton_leaves_out_what_is_out_of_sight_and_a_garments_region_stays_on_the_body() -> None:
    joints = standing()
    drawn = drawing.skeleton(joints, SIZE)
    assert drawn[138, 198].any()  # the left wrist
    joints[15, 2] = 0.1
    assert not drawing.skeleton(joints, SIZE)[134:143, 194:203].any()
    person = np.zeros(SIZE, np.bool_)
    person[20:230, 110:210] = True
    upper = drawing.garment_region(joints, person, "upper")
    lower = drawing.garment_region(joints, person, "lower")
    assert not (upper | lower)[~person].any()
    assert upper[100, 160]
    assert upper[105, 195]  # the arm
    assert not upper[:50].any()  # the head
    assert not upper[180:].any()
    assert lower[200, 178]
    assert not lower[:100].any()
    whole_body = drawing.garment_region(joints, person, "whole")
    assert (whole_body == (upper | lower)).all()


# --- the verb -----------------------------------------------------------------------------------------------


def noria_track(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        noria.cli.main(["tryon", "track", *map(str, arguments)])
    return int(ended.value.code or 0)


@networks
def test_a_real_clip_is_tracked_and_what_was_written_is_what_inspect_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ai_edge_litert")
    folder = find_asset("clips")
    if folder is None:
        pytest.skip("needs `noria assets clips`")
    source = read_clip(folder / "carphone_pristine.mp4")
    clip = tmp_path / "talk.mp4"
    clip.write_bytes(encode_clip(source.frames[:9], source.seconds[:9].tolist(), crf=1))
    assert noria_track(clip, "-o", tmp_path / "t", "--json", "-q") == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["frames"], about["person_missed"], about["other_persons"]) == (9, 0, 0)
    assert about["hands"] == 0  # none is in sight
    mask = read_clip(tmp_path / "t" / "mask.mp4").frames[..., 0] > 127
    assert mask[:, 120:140, 80:110].mean() > 0.95  # the chest
    assert not mask[:, :85].any()  # face and roof
    assert mask.sum() < (read_clip(tmp_path / "t" / "person.mp4").frames[..., 0] > 127).sum()
    assert not read_hands(tmp_path / "t" / "hands.npz", 9, source.size).valid.any()
    options = [word for name, file in about["files"].items() for word in (f"--{name}", tmp_path / "t" / file)]
    with pytest.raises(SystemExit) as ended:
        noria.cli.main(["tryon", "inspect", str(clip), *map(str, options), "-o", str(tmp_path / "i")])
    assert not ended.value.code


@networks
def test_of_two_persons_one_must_be_chosen_and_a_hand_at_a_wrist_is_the_persons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_litert")
    folder = find_asset("photos")
    if folder is None:
        pytest.skip("needs `noria assets photos`")
    monkeypatch.setattr("noria.tryon.hands.rendering.RADIUS", 0.011)
    astronaut = np.asarray(Image.open(folder / "astronaut.png").convert("RGB"))
    both = tmp_path / "both.png"
    Image.fromarray(np.concatenate([astronaut[:, ::-1], astronaut], axis=1)).save(both)
    assert noria_track(both, "-o", tmp_path / "t", "-q") == 2
    assert "2 persons are in sight (1 at " in capsys.readouterr().err
    assert not (tmp_path / "t").exists()
    assert noria_track(both, "-o", tmp_path / "r", "-q", "--person", "730,320", "--no-hands", "--json") == 0
    assert json.loads(capsys.readouterr().out)["other_persons"] == 1
    person = read_clip(tmp_path / "r" / "person.mp4").frames[0, ..., 0] > 127
    assert person[:, 600:850].mean() > 10 * person[:, :500].mean()

    camera = clip_camera((512, 512), 60)
    joints = hand(np.array([0.25, 0.42, 1.4]) * 0.6, mirror=True)
    waving = tmp_path / "waving.png"
    photographed(joints, astronaut, camera).save(waving)
    assert noria_track(waving, "-o", tmp_path / "w", "-q") == 0
    track = read_hands(tmp_path / "w" / "hands.npz", 1, (512, 512))
    assert track.valid.tolist() == [[True, False]]
    truth = joints @ camera.T
    assert np.abs(track.projected()[0, 0] - truth[:, :2] / truth[:, 2:]).mean() < 12


def test_a_choice_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ai_edge_litert")
    for wrong in ("biggest", "0", "1,2,3", "nan,4"):
        assert noria_track(tmp_path / "x.mp4", "--person", wrong) == 2
        assert "is not largest" in capsys.readouterr().err
    assert noria_track(tmp_path / "x.mp4", "--no-hands", "--no-pose", "--no-mask") == 2
