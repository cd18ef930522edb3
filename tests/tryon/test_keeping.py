"""What a try-on keeps, and whether its actions show: background, face, and a judge that is tried first."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("av")

import noria.cli  # noqa: E402
from noria.core.errors import DataError  # noqa: E402
from noria.tryon.actions.reading import Action  # noqa: E402
from noria.tryon.evaluation.keeping import Embedding, Likeness, compare, identity  # noqa: E402
from noria.tryon.evaluation.pairs import companion  # noqa: E402
from noria.tryon.evaluation.pictures import ssim  # noqa: E402
from noria.tryon.integrations.judge import other_actions  # noqa: E402
from noria.tryon.video.clips import encode_clip  # noqa: E402
from tests.chat_server import Reply, chat_server  # noqa: E402


def noria_tryon(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        noria.cli.main(["tryon", *map(str, arguments)])
    return int(ended.value.code or 0)


def likeness(
    made: torch.Tensor, real: torch.Tensor, where: torch.Tensor | None = None, *, pure: bool = False
) -> Likeness:
    part = Likeness(where, pure=pure)
    compare(made, real, [part])
    return part


def test_only_pixels_that_count_are_measured() -> None:
    draw = torch.Generator().manual_seed(0)
    real = torch.rand(2, 3, 40, 48, generator=draw) * 255
    inside = torch.zeros(2, 40, 48, dtype=torch.bool)
    inside[:, 10:25, 12:30] = True
    made = torch.where(inside[:, None], 255 - real, real)
    kept = likeness(made, real, ~inside, pure=True)
    assert kept.psnr == math.inf
    assert kept.ssim == pytest.approx(1)
    windows_at_the_edge_reach_into_the_mask = likeness(made, real, ~inside).ssim
    assert windows_at_the_edge_reach_into_the_mask is not None
    assert windows_at_the_edge_reach_into_the_mask < 0.99
    off = made + 5 * (~inside)[:, None]
    assert likeness(off, real, ~inside).psnr == pytest.approx(10 * math.log10(255**2 / 25))
    everywhere = likeness(off, real, torch.ones_like(inside)).ssim
    assert everywhere == pytest.approx(float(ssim(off, real).mean()))
    nowhere = likeness(made, real, inside & ~inside, pure=True)
    assert nowhere.psnr is None
    assert nowhere.ssim is None


def test_the_identity_is_the_cosine_of_the_faces_alone_and_faceless_frames_are_counted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "faces.pt"
    torch.jit.script(torch.nn.AdaptiveAvgPool2d(2)).save(str(path))
    real = torch.full((3, 3, 40, 48), 200.0)
    real[:, :, 5:15, 2:12] = torch.tensor([255.0, 128, 0])[:, None, None]
    faces = torch.zeros(3, 40, 48, dtype=torch.bool)
    faces[:2, 5:15, 2:12] = True
    made = real.clone()
    made[:, :, 25:] = 0  # nothing of the face
    network = Embedding(path, 8)
    assert identity(made, real, faces, network) == (pytest.approx(1), 1)
    made[1, :, 5:15, 2:12] = 255 - made[1, :, 5:15, 2:12]
    value, without = identity(made, real, faces, network)
    assert value is not None
    assert value < 0.9
    assert without == 1
    assert identity(made, real, faces & False, network) == (None, 3)
    path.write_bytes(b"no network")
    with pytest.raises(DataError):
        Embedding(path, 8)


def test_each_video_has_one_companion(tmp_path: Path) -> None:
    (tmp_path / "a.srt").touch()
    assert companion(tmp_path, "a.mp4", (".json", ".srt")) == tmp_path / "a.srt"
    (tmp_path / "a.json").touch()
    for name, what in (("a.mp4", "several a"), ("b.mp4", r"no b with an ending of .json, .srt")):
        with pytest.raises(DataError, match=what):
            companion(tmp_path, name, (".json", ".srt"))


def test_evaluate_says_what_was_kept_after_decoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    field = np.kron(rng.integers(40, 200, (1, 8, 8, 3)), np.ones((5, 6, 6, 1))).astype(np.uint8)
    made = field.copy()
    made[:, 16:40, 12:36] = 255 - made[:, 16:40, 12:36]
    mask, face = np.zeros((5, 48, 48), np.bool_), np.zeros((5, 48, 48), np.bool_)
    mask[:, 16:40, 12:36] = True
    face[:4, :12, 2:14] = True
    times = [k / 10 for k in range(5)]
    for folder, content in (("real", field), ("made", made)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp4").write_bytes(encode_clip(content, times, crf=4))
    for folder, content in (("masks", mask), ("faces", face)):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "a.npz", mask=content)
    network = tmp_path / "faces.pt"
    torch.jit.script(torch.nn.AdaptiveAvgPool2d(4)).save(str(network))
    call = [
        "evaluate",
        tmp_path / "made",
        "--reference",
        tmp_path / "real",
        "-o",
        tmp_path / "e",
        "-q",
        "--json",
        "--window",
        2,
    ]
    assert noria_tryon(*call) == 0
    bare = json.loads(capsys.readouterr().out)["scores"]
    assert (
        bare["background_psnr"]
        is bare["face_ssim"]
        is bare["identity"]
        is bare["frames_without_face"]
        is None
    )
    more = ["--masks", tmp_path / "masks", "--faces", tmp_path / "faces", "--identity", network]
    assert noria_tryon(*call, *more, "--identity-side", 16) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["psnr"] < 20
    assert scores["background_psnr"] > 35  # encoding alone
    assert scores["background_ssim"] > 0.97
    assert scores["ssim"] < 0.9
    assert scores["face_ssim"] > 0.9
    assert scores["identity"] > 0.999
    assert scores["frames_without_face"] == 1
    assert noria_tryon(*call, "--identity", network) == 2
    assert "needs faces" in capsys.readouterr().err
    assert noria_tryon(*call, "--unpaired", *more) == 2
    assert "unpaired videos have no masks" in capsys.readouterr().err


# --- the judge ----------------------------------------------------------------------------------------------

COLOURS = {"red": 0, "green": 1, "blue": 2}


def flashing(colour: str | None) -> NDArray[np.uint8]:
    """Twenty grey frames, of which those from .5 s to 1 s show a square of a colour."""
    frames = np.full((20, 48, 48, 3), 90, np.uint8)
    if colour:
        frames[5:10, 12:36, 12:36] = [220 if number == COLOURS[colour] else 20 for number in range(3)]
    return frames


def looking(body: dict[str, object], number: int) -> Reply:
    """A judge that looks at the pictures it is sent: the colour that the question names must stand out in one."""
    text = json.dumps(body)
    colour = next(name for name in COLOURS if f"shows a {name} sign" in text)
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
        for data in re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", text)
    ]
    assert pictures
    channel = COLOURS[colour]
    seen = any((p[..., channel] - np.delete(p, channel, -1).max(-1) > 80).mean() > 0.05 for p in pictures)
    return Reply(
        json.dumps({"answers": [{"number": 1, "answer": "yes" if seen else "no", "reason": "looked"}]})
    )


def judged_files(home: Path) -> list[object]:
    shown = {"a": ("red", "red"), "b": ("green", "green"), "c": ("blue", None)}
    for name, (real, made) in shown.items():
        for folder, colour in (("real", real), ("made", made)):
            (home / folder).mkdir(exist_ok=True)
            clip = encode_clip(flashing(colour), [k / 10 for k in range(20)])
            (home / folder / f"{name}.mp4").write_bytes(clip)
        (home / "actions").mkdir(exist_ok=True)
        action = {"start": 0.5, "end": 1.0, "caption": f"The hand shows a {real} sign"}
        (home / "actions" / f"{name}.json").write_text(json.dumps([action]))
    return [
        "judge",
        home / "made",
        "--reference",
        home / "real",
        "--actions",
        home / "actions",
        "-o",
        home / "j",
    ]


def test_a_judge_is_tried_on_real_clips_before_its_word_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    call = [*judged_files(tmp_path), "--model", "m", "--votes", 1, "-q", "--json"]
    with chat_server(looking) as double:
        assert noria_tryon(*call, "--url", double.url) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["generated"] == {"shown": 2, "judged": 3, "invalid": 0, "rate": pytest.approx(2 / 3)}
    assert about["real"]["rate"] == 1
    assert about["real, others' actions"]["rate"] == 0
    assert about["trusted"] is True
    each = json.loads((tmp_path / "j" / "judged.json").read_text())["actions"]
    assert [row["generated"] for row in each] == ["yes", "yes", "no"]

    agreeable = Reply(json.dumps({"answers": [{"number": 1, "answer": "yes", "reason": "sure"}]}))
    for reply, rate, trusted in ((agreeable, 1, False), (Reply("I cannot say."), None, None)):
        with chat_server(lambda body, number, reply=reply: reply) as double:
            assert noria_tryon(*call, "--url", double.url) == 0
        about = json.loads(capsys.readouterr().out)
        assert (about["generated"]["rate"], about["trusted"]) == (rate, trusted)
    assert noria_tryon(*call) == 2
    assert "no server to ask" in capsys.readouterr().err


def test_actions_of_others_have_ones_own_times_and_no_caption_of_ones_own() -> None:
    clips = [[Action(0, 1, "a"), Action(1, 2, "b")], [Action(3, 4, "a")], [Action(5, 6, "c")], []]
    others = other_actions(clips)
    assert others == [[Action(0, 1, "c")], [Action(3, 4, "c")], [Action(5, 6, "a")], []]
    assert other_actions([[Action(0, 1, "a")], [Action(0, 1, "a")]]) == [[], []]
