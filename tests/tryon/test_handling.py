"""Hands and garment of a generated clip: a scripted hand that drags a patterned garment, or does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("av")

import noria.cli  # noqa: E402
from noria.tryon.actions.reading import Action  # noqa: E402
from noria.tryon.evaluation.companions import Companions  # noqa: E402
from noria.tryon.evaluation.handling import acting, drawn_hands, garment_motion, handling  # noqa: E402
from noria.tryon.hands.synthetic import hand  # noqa: E402
from noria.tryon.hands.track import HandTrack, write_hands  # noqa: E402
from noria.tryon.video.clips import Clip, encode_clip  # noqa: E402

FRAMES, SIZE = 30, (96, 128)
SECONDS = np.arange(FRAMES) / 10
CAMERA = np.array([[120.0, 0, 64], [0, 120, 48], [0, 0, 1]])
DRAG = Action(1.0, 2.0, "She drags the hem")
"""Frames 10 to 19, in which the hand is at the garment and moves."""


def path_of_hand() -> np.ndarray:
    """Shift of the hand in pixels from where it rests `[frames, 2]`; it moves in frames 10 to 19 alone."""
    steps = np.zeros((FRAMES, 2), int)
    steps[10:20] = [[3, 0], [0, 2], [-2, 1], [3, 3], [-3, 0], [0, -2], [2, 2], [1, -3], [-2, 0], [0, 3]]
    return steps.cumsum(0)


def scripted(follows: int = 1) -> tuple[Clip, HandTrack, np.ndarray]:
    """A clip whose garment moves `follows` times as far as the hand, its hands, and the visible garment.

    Left of column 70 there is no garment; the hand rests there in front of the body, and jumps to the
    garment's edge for frames 9 to 20.
    """
    path = path_of_hand()
    joints, valid = np.zeros((FRAMES, 2, 21, 3), np.float32), np.zeros((FRAMES, 2), np.bool_)
    for t in range(FRAMES):
        place = np.array([58.0 if 9 <= t <= 20 else 20.0, 60]) + path[t]
        wrist = np.array([*(place - CAMERA[:2, 2]) / 120 * 0.6, 0.6])
        joints[t, 1], valid[t, 1] = hand(wrist), True
    track = HandTrack(joints, valid, CAMERA)
    pattern = np.kron(
        np.random.default_rng(0).integers(60, 200, (48, 64, 3)), np.ones((2, 2, 1), int)
    ).astype(np.uint8)
    frames = np.full((FRAMES, *SIZE, 3), 90, np.uint8)
    garment = np.zeros((FRAMES, *SIZE), np.bool_)
    hands = drawn_hands(track, SIZE).any(0)
    for t in range(FRAMES):
        moved = np.roll(pattern, tuple(follows * path[t, ::-1]), axis=(0, 1))
        garment[t, 4:92, 70:124] = True
        frames[t][garment[t]] = moved[garment[t]]
        frames[t][hands[t]] = [230, 180, 150]
    return Clip(frames, SECONDS, 3.0, Path("made.mp4")), track, garment & ~hands


def test_a_garment_that_goes_with_the_hand_has_each_figure_at_its_best() -> None:
    clip, track, garment = scripted()
    touch = [Action(0.9, 2.1, "touch")]
    given = Companions(hands=track, garment=garment, actions=[DRAG], shown=[DRAG], contacts=touch)
    row = handling(clip, given, reach=3)
    assert row["action_timing"] == 1
    assert row["onset_error"] == pytest.approx(0, abs=1e-6)
    assert (row["actions_missed"], row["movements_extra"]) == (0, 0)
    assert row["contact_f1"] == 1
    assert row["penetration"] == 0
    assert row["coupling"] > 0.95
    assert row["frames_without_hand"] == 0


def test_a_garment_that_goes_against_the_hand_is_coupled_negatively_and_a_still_one_is_not_measured() -> None:
    clip, track, garment = scripted(follows=-1)
    assert handling(clip, Companions(hands=track, garment=garment), reach=3)["coupling"] < -0.95
    clip, track, garment = scripted(follows=0)
    given = Companions(hands=track, garment=garment, actions=[DRAG])
    row = handling(clip, given, reach=3)
    assert row["coupling"] is None
    assert row["onset_error"] is None
    assert row["actions_missed"] == 1


def test_a_garment_drawn_over_the_hand_went_through_it() -> None:
    clip, track, garment = scripted()
    hands = drawn_hands(track, SIZE).any(0)
    over = garment | (hands & (np.arange(FRAMES) >= 20)[:, None, None])
    row = handling(clip, Companions(hands=track, garment=over), reach=3)
    assert row["penetration"] == pytest.approx(hands[20:].sum() / hands.sum())


def test_frames_without_a_hand_or_a_garment_are_in_no_figure() -> None:
    clip, track, garment = scripted()
    hidden = track.valid & ((np.arange(FRAMES) < 12) | (np.arange(FRAMES) > 17))[:, None]
    touch = [Action(0.9, 2.1, "touch")]
    part = handling(
        clip, Companions(hands=replace(track, valid=hidden), garment=garment, contacts=touch), reach=3
    )
    assert part["frames_without_hand"] == 6
    assert part["contact_f1"] == 1  # of the other frames
    none = replace(track, valid=track.valid & False)
    given = Companions(hands=none, garment=garment & False, actions=[DRAG], contacts=touch)
    row = handling(clip, given, reach=3)
    assert row.pop("frames_without_hand") == FRAMES
    assert set(row) == {"penetration", "coupling", "contact_f1"}  # no garment, no onset
    assert set(row.values()) == {None}


def test_actions_are_named_by_their_captions_frame_by_frame() -> None:
    seconds = np.arange(8) / 4
    numbers = {"she zips": 1, "she lifts the hem": 2}
    spans = [Action(0.25, 0.75, "She  Zips"), Action(0.5, 1.25, "she lifts the hem"), Action(1.5, 2, "other")]
    assert acting(spans, seconds, numbers).tolist() == [0, 1, 1, 2, 2, 0, 3, 3]


def test_motion_is_the_change_of_the_garment_alone() -> None:
    frames = np.zeros((5, 6, 6, 3), np.uint8)
    garment = np.zeros((5, 6, 6), np.bool_)
    garment[:4, :3] = True
    frames[1, 3:] = 200  # outside
    garment[1, 0], frames[1, 0] = False, 200  # covered
    frames[2, :3] = 10
    motion = garment_motion(frames, garment)
    assert np.isnan(motion[[0, 4]]).all()
    assert motion[1:4].tolist() == [0, 10, 10]


# --- the verb -----------------------------------------------------------------------------------------------


def noria_evaluate(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        noria.cli.main(["tryon", "evaluate", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two pairs, of which the second shows another action, with a file of each kind by their names."""
    clip, track, garment = scripted()
    late = {"start": 1.5, "end": 2.5, "caption": DRAG.caption}
    drag = {"start": DRAG.start, "end": DRAG.end, "caption": DRAG.caption}
    for folder in ("made", "real", "hands", "garments", "actions", "shown", "contacts"):
        (tmp_path / folder).mkdir()
    for name, shown in (("a", drag), ("b", late)):
        for side in ("made", "real"):
            content = encode_clip(clip.frames, SECONDS.tolist(), crf=4)
            (tmp_path / side / f"{name}.mp4").write_bytes(content)
        (tmp_path / "hands" / f"{name}.npz").write_bytes(write_hands(track))
        np.savez(tmp_path / "garments" / f"{name}.npz", mask=garment)
        (tmp_path / "actions" / f"{name}.json").write_text(json.dumps([drag]))
        (tmp_path / "shown" / f"{name}.json").write_text(json.dumps([shown]))
        cue = "1\n00:00:00,900 --> 00:00:02,100\ntouch\n"
        (tmp_path / "contacts" / f"{name}.srt").write_text(cue)
    return tmp_path


def test_evaluate_measures_hands_and_garment_where_their_files_are_given(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = (home / "made", "--reference", home / "real", "-o", home / "e", "-q", "--json", "--reach", 3)
    options = ("hands", "garments", "actions", "contacts")
    more = [word for name in options for word in (f"--{name}", home / name)]
    assert noria_evaluate(*call, *more, "--shown-actions", home / "shown") == 0
    about = json.loads(capsys.readouterr().out)
    scores = about["scores"]
    assert [row["action_timing"] for row in about["clips"]] == [1, 0.5]
    assert scores["action_timing"] == 0.75
    assert scores["onset_error"] == pytest.approx(0, abs=1e-3)
    assert (scores["actions_missed"], scores["movements_extra"]) == (0, 0)
    assert scores["contact_f1"] == 1
    assert scores["penetration"] < 0.01  # the hands are smoothed
    assert scores["coupling"] > 0.9
    assert scores["frames_without_hand"] == 0
    page = (home / "e" / "report.html").read_text()
    assert "Hands and garment of each clip" in page

    assert noria_evaluate(*call, "--hands", home / "hands", "--garments", home / "garments") == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["coupling"] > 0.9
    for name in ("action_timing", "onset_error", "actions_missed", "movements_extra", "contact_f1"):
        assert scores[name] is None

    assert noria_evaluate(*call) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    for name in ("penetration", "coupling", "frames_without_hand", "frames_without_face"):
        assert scores[name] is None
    assert "Hands and garment" not in (home / "e" / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "named", "mend"),
    [
        (("hands",), "--hands", "--garments"),
        (("contacts", "garments", "actions"), "--contacts", "--hands and --garments"),
        (("shown",), "--shown-actions", "--actions"),
        (("actions",), "--actions", "--garments or --shown-actions"),
        (("garments",), "--garments", "--hands or --actions"),
    ],
)
def test_evaluate_refuses_files_of_which_nothing_is_measured(
    home: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], named: str, mend: str
) -> None:
    call = [home / "made", "--reference", home / "real", "-o", home / "e", "-q"]
    for name in given:
        call += ["--shown-actions" if name == "shown" else f"--{name}", home / name]
    assert noria_evaluate(*call) == 2
    said = capsys.readouterr().err
    assert f"{named}: nothing is measured" in said
    assert f"give {mend}, too" in said
    assert noria_evaluate(*call, "--unpaired") == 2
    assert "unpaired videos have no masks, hands or actions" in capsys.readouterr().err
