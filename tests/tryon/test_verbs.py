"""The verbs as a user calls them, on files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("av")

import noria.cli  # noqa: E402
from noria.tryon.video.clips import read_clip  # noqa: E402
from tests.tryon.world_files import write_clip_files, write_manifest  # noqa: E402

FAST = ("--steps", "1", "--guidance", "1", "-q")


@pytest.fixture(scope="module", name="files")
def _files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_clip_files(tmp_path_factory.mktemp("clip"))


def noria_tryon(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        noria.cli.main(["tryon", *map(str, arguments)])
    return int(ended.value.code or 0)


def all_of(files: dict[str, Path]) -> list[object]:
    names = ("mask", "hands", "pose", "actions")
    return [files["video"], *(word for name in names for word in (f"--{name}", files[name]))]


def test_inspect_writes_the_page_and_the_mask_that_will_be_used(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert noria_tryon("inspect", *all_of(files), "-o", tmp_path / "i", "--json") == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["frames"], about["width"], about["actions"]) == (9, 48, 1)
    page = (tmp_path / "i" / "report.html").read_text()
    assert "data:video/mp4;base64," in page
    assert "media-src data:" in page
    assert "She lifts the hem" in page
    mask = read_clip(tmp_path / "i" / "mask.mp4").frames.mean(-1) > 127
    assert abs(mask.mean() - about["masked"]) < 0.02


def test_inspect_names_the_frames_whose_mask_is_doubtful(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(files["mask"]) as stored:
        mask = stored["mask"].copy()
    mask[[2, 3, 4]] = 0
    mask[7] = True
    path = tmp_path / "mask.npz"
    np.savez(path, mask=mask)
    assert noria_tryon("inspect", files["video"], "--mask", path, "-o", tmp_path / "i") == 0
    said = capsys.readouterr().out
    assert "4 doubtful masks" in said
    assert said.index("frames 2 to 4: empty") < said.index("frame 7: whole frame")


def test_generate_gives_back_the_clip_with_other_pixels_in_the_mask_only(
    files: dict[str, Path], tmp_path: Path
) -> None:
    options = ("-g", files["garment"], "-o", tmp_path / "g", *FAST, "--keep-hands")
    assert noria_tryon("generate", *all_of(files), *options) == 0
    source, made = (read_clip(path) for path in (files["video"], tmp_path / "g" / "result.mp4"))
    assert made.frames.shape == source.frames.shape
    assert made.seconds == pytest.approx(source.seconds, abs=1e-4)
    difference = np.abs(made.frames.astype(int) - source.frames).mean(-1)
    assert difference[:, :3].mean() < 6  # encoding alone
    assert difference[:, 12:20, 16:32].mean() > 15
    about = json.loads((tmp_path / "g" / "result.json").read_text())
    assert "compositeWithTrainedAlgorithmicMedia" in about["digitalSourceType"]
    assert about["chunks_resumed"] == 0
    assert not (tmp_path / "g" / "chunks").exists(), "what is finished needs no chunks"
    made_at = (tmp_path / "g" / "result.mp4").stat().st_mtime_ns
    assert noria_tryon("generate", *all_of(files), *options) == 0
    assert (tmp_path / "g" / "result.mp4").stat().st_mtime_ns == made_at, "the same is there already"
    assert noria_tryon("generate", *all_of(files), *options, "--seed", 1) == 0
    assert (tmp_path / "g" / "result.mp4").stat().st_mtime_ns > made_at


def test_an_estimate_writes_nothing_and_a_photo_is_a_clip(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    photo, mask = tmp_path / "p.png", tmp_path / "m.png"
    Image.fromarray(read_clip(files["video"]).frames[0]).save(photo)
    Image.fromarray((np.mgrid[:32, :48][0] > 12).astype(np.uint8) * 255).save(mask)
    call = (photo, "--mask", mask, "-g", files["garment"], "-o", tmp_path / "g", *FAST)
    assert noria_tryon("generate", *call, "--estimate", "--teraflops", 1) == 0
    assert "gigaflop" in capsys.readouterr().out
    assert not (tmp_path / "g").exists()
    assert noria_tryon("generate", *call) == 0
    assert len(read_clip(tmp_path / "g" / "result.mp4").frames) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--mask", "absent.npz"), "absent.npz"),
        (("--actions", "absent.srt"), "absent.srt"),
        (("--chunk-frames", "20"), "4m + 1"),
        (("--chunk-overlap", "81"), "chunk_overlap"),
        (("--model", "absent"), "no such folder"),
        (("--memory", "0.000001"), "fit"),
    ],
    ids=["mask", "actions", "frames", "overlap", "model", "memory"],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, ...],
    message: str,
) -> None:
    call = (
        "generate",
        files["video"],
        "--mask",
        files["mask"],
        "-g",
        files["garment"],
        "-o",
        tmp_path / "g",
        *FAST,
    )
    assert noria_tryon(*call, *change) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "g" / "result.mp4").exists()


def test_prepare_names_every_clip_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path)
    (tmp_path / "c1" / "clip.mp4").write_bytes(b"no video")
    options = ("--frames", 9, "--most-pixels", 1536, "-q", "--json")
    assert noria_tryon("prepare", manifest, *options) == 1
    about = json.loads(capsys.readouterr().out)
    assert about["clips"] == 1
    assert len(about["refused"]) == 1
    assert "clips.jsonl:2" in about["refused"][0]


def test_evaluate_measures_pairs_and_refuses_what_does_not_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("made", "real"):
        (tmp_path / side).mkdir()
        for number in range(3):
            files = write_clip_files(tmp_path / "files", frames=33 + number)
            (tmp_path / side / f"{number}.mp4").write_bytes(files["video"].read_bytes())
    call = (
        "evaluate",
        tmp_path / "made",
        "--reference",
        tmp_path / "real",
        "-o",
        tmp_path / "e",
        "-q",
        "--json",
    )
    assert noria_tryon(*call) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["ssim"] == pytest.approx(1)
    assert scores["frechet"] == pytest.approx(0, abs=1e-4)
    assert scores["psnr"] is None  # of equal frames it is infinite
    assert scores["lpips"] is None  # without weights
    assert noria_tryon(*call, "--compat", "catv2ton") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["windows"] == (33 + 34 + 35) // 10
    short = write_clip_files(tmp_path / "files", frames=9)["video"]
    (tmp_path / "made" / "0.mp4").write_bytes(short.read_bytes())
    assert noria_tryon(*call) == 2
    assert "9 frames" in capsys.readouterr().err
    (tmp_path / "made" / "x.mp4").write_bytes(short.read_bytes())
    assert noria_tryon(*call) == 2
    assert "without a reference" in capsys.readouterr().err


@pytest.mark.parametrize(
    "how", [(), ("--compat", "catv2ton"), ("--unpaired",)], ids=["", "catv2ton", "unpaired"]
)
def test_evaluate_decodes_each_video_once_and_compares_each_frame_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...]
) -> None:
    import noria.tryon.evaluation.keeping as keeping
    import noria.tryon.video.clips as clips

    for side in ("made", "real"):
        (tmp_path / side).mkdir()
        for number in range(3):
            files = write_clip_files(tmp_path / "files", frames=21)
            (tmp_path / side / f"{number}.mp4").write_bytes(files["video"].read_bytes())
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(3):
        (masks / f"{number}.npz").write_bytes(files["mask"].read_bytes())
    opened: list[str] = []
    read = clips.read_clip

    def counted(path: Path) -> object:
        opened.append(f"{path.parent.name}/{path.name}")
        return read(path)

    compared: list[int] = []
    similarity = keeping.ssim_map

    def mapped(one: Any, other: Any) -> Any:
        compared.append(len(one))
        return similarity(one, other)

    monkeypatch.setattr(clips, "read_clip", counted)
    monkeypatch.setattr(keeping, "ssim_map", mapped)
    more = how if how == ("--unpaired",) else (*how, "--masks", masks, "--faces", masks)
    call = (
        "evaluate",
        tmp_path / "made",
        "--reference",
        tmp_path / "real",
        "-o",
        tmp_path / "e",
        "-q",
        "--json",
    )
    assert noria_tryon(*call, *more) == 0
    assert sorted(opened) == [f"{side}/{number}.mp4" for side in ("made", "real") for number in range(3)]
    assert sum(compared) == (0 if how == ("--unpaired",) else 3 * 21)
    assert json.loads(capsys.readouterr().out)["scores"]["frechet"] == pytest.approx(0, abs=1e-4)


def test_evaluate_refuses_frames_that_ssim_has_no_window_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("made", "real"):
        files = write_clip_files(tmp_path / side, size=(10, 48))
        for name, path in files.items():
            if name != "video":
                path.unlink()
    call = ("evaluate", tmp_path / "made", "--reference", tmp_path / "real", "-o", tmp_path / "e", "-q")
    assert noria_tryon(*call) == 2
    assert "48×10" in capsys.readouterr().err


def test_annotate_finds_contact_and_its_file_is_read_again(files: dict[str, Path], tmp_path: Path) -> None:
    from noria.tryon.actions.reading import read_actions

    call = (
        "annotate",
        files["video"],
        "--mask",
        files["mask"],
        "--hands",
        files["hands"],
        "-o",
        tmp_path / "a.json",
    )
    assert noria_tryon(*call, "-q") == 0
    (action,) = read_actions(tmp_path / "a.json")
    assert action.start == 0
    assert action.end == pytest.approx(9 / 16, abs=0.01)


def test_annotate_asks_a_model_and_cuts_what_it_says_to_the_clip(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    from noria.tryon.actions.reading import read_actions
    from tests.chat_server import Reply, chat_server

    said = [
        {"start": 0.1, "end": 0.9, "caption": "He lifts the hem"},
        {"start": 0.8, "end": 1.4, "caption": "late"},
    ]
    bodies: list[dict[str, object]] = []

    def reply(body: dict[str, object], number: int) -> Reply:
        bodies.append(body)
        return Reply(f"```json\n{json.dumps(said)}\n```")

    with chat_server(reply) as double:
        call = (
            "annotate",
            files["video"],
            "--url",
            double.url,
            "--model",
            "m",
            "-o",
            tmp_path / "a.json",
            "-q",
        )
        assert noria_tryon(*call, "--frames", 4) == 0
    assert "action 2 of the model is left out" in capsys.readouterr().err
    (action,) = read_actions(tmp_path / "a.json")
    assert action.end == pytest.approx(9 / 16, abs=0.01)
    assert json.dumps(bodies[0]).count("image_url") >= 4


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("--mask", "mask", "--hands", "hands", "--actions", "actions"), "--actions"),
        (("--mask", "mask", "--url", "http://127.0.0.1:9/v1", "--model", "m"), "--mask"),
        (("--reach", 9, "--url", "http://127.0.0.1:9/v1", "--model", "m"), "--reach: it has no effect"),
        (("--caption", "x", "--url", "http://127.0.0.1:9/v1", "--model", "m"), "--caption: it has no effect"),
        (
            ("--mask-grow", 9, "--url", "http://127.0.0.1:9/v1", "--model", "m"),
            "--mask-grow: it has no effect",
        ),
        (("--mask", "mask", "--hands", "hands", "--frames", 4), "--frames: it has no effect"),
    ],
    ids=["no option", "not read", "reach", "caption", "mask", "frames"],
)
def test_annotate_refuses_what_it_would_not_read(
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
    named: str,
) -> None:
    words = [files.get(word, word) for word in given]
    assert noria_tryon("annotate", files["video"], *words, "-o", tmp_path / "a.json", "-q") == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()


def test_an_action_that_the_garment_has_no_part_for_is_refused(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actions = tmp_path / "a.json"
    actions.write_text(json.dumps([{"start": 0.1, "end": 0.4, "caption": "She unzips it"}]))
    call = (
        "generate",
        files["video"],
        "--mask",
        files["mask"],
        "-g",
        files["garment"],
        "-o",
        tmp_path / "g",
        *FAST,
    )
    assert noria_tryon(*call, "--actions", actions, "--garment-is", "a plain t-shirt") == 2
    assert "needs zipper" in capsys.readouterr().err
    assert noria_tryon(*call, "--actions", actions, "--garment-is", "a hoodie with a zipper") == 0


@pytest.mark.slow
def test_a_killed_generation_goes_on_where_it_was(tmp_path: Path) -> None:
    files = write_clip_files(tmp_path / "clip", frames=129)
    command = [
        sys.executable,
        "-m",
        "noria.cli",
        "tryon",
        "generate",
        files["video"],
        "--mask",
        files["mask"],
    ]
    command += ["-g", files["garment"], "-o", tmp_path / "g", "--steps", 12, "--chunk-frames", 17, "-q"]
    process = subprocess.Popen([str(word) for word in command])
    chunks = tmp_path / "g" / "chunks"
    until = time.monotonic() + 60
    while time.monotonic() < until and len(list(chunks.glob("*/*.chunk"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(chunks.glob("*/*.chunk")))
    assert kept >= 2
    assert not (tmp_path / "g" / "result.mp4").exists()
    subprocess.run([str(word) for word in command], check=True)
    about = json.loads((tmp_path / "g" / "result.json").read_text())
    assert 0 < kept <= about["chunks_resumed"] < about["chunks"]


def test_hands_off_the_person_are_reported(files: dict[str, Path], tmp_path: Path) -> None:
    """The hands of the clip lie in its middle; a person who stands at its edge has none of them."""
    counts = []
    for name, columns in {"whole": slice(None), "edge": slice(0, 3)}.items():
        person = np.zeros((9, 32, 48), np.bool_)
        person[:, :, columns] = True
        np.savez(tmp_path / f"{name}.npz", mask=person)
        given = ("--person", tmp_path / f"{name}.npz", "-o", tmp_path / name)
        assert noria_tryon("inspect", *all_of(files), *given) == 0
        counts.append(json.loads((tmp_path / name / "inspect.json").read_text())["misaligned_hands"])
    assert counts[0] == 0
    assert counts[1] > 9
    assert noria_tryon("inspect", *all_of(files), "-o", tmp_path / "none") == 0
    unknown = json.loads((tmp_path / "none" / "inspect.json").read_text())
    assert "misaligned_hands" not in unknown, "nobody said where the person is"


def test_a_training_is_exported_as_a_model_and_its_lora_as_diffusers_loads_it(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from noria.tryon.pipeline.loading import open_pipeline, tiny_pipeline
    from noria.tryon.pipeline.lora import FILE, load_lora
    from noria.tryon.training.loading import open_any

    manifest = write_manifest(tmp_path / "clips")
    form = ("--frames", 9, "--most-pixels", 1536, "--steps", 3, "--lr", 0.01, "--warmup", 0, "-q")
    run = tmp_path / "run"
    assert noria_tryon("train", "--data", manifest, "--preset", "lora", "--rank", 2, *form, "-o", run) == 0
    assert noria_tryon("export", run, "-o", tmp_path / "model") == 0
    assert noria_tryon("export", run, "--only-lora", "-o", tmp_path / "lora") == 0
    trained, whole = open_any(str(run)).transformer, open_pipeline(str(tmp_path / "model")).transformer
    layer = "blocks.0.attn1.to_q"
    own = trained.get_submodule(layer)
    merged = own.base_layer.weight + own.get_delta_weight("default")
    assert torch.allclose(whole.get_submodule(layer).weight, merged, atol=1e-6)
    assert not torch.equal(merged, own.base_layer.weight)
    assert torch.equal(whole.guider.project[0].weight, trained.guider.project[0].weight)
    stock = tiny_pipeline()
    stock.load_lora_weights(tmp_path / "lora")
    assert torch.allclose(
        stock.transformer.get_submodule(layer).get_delta_weight("default_0"), own.get_delta_weight("default")
    )
    ours = tiny_pipeline()
    assert load_lora(ours, tmp_path / "lora" / FILE).ignored == []
    assert len(load_file(tmp_path / "lora" / FILE)) > 10
    assert noria_tryon("export", run, "-o", tmp_path / "model") == 2


def test_a_lora_is_loaded_at_its_own_strength_and_on_its_own_expert(tmp_path: Path) -> None:
    import peft

    from noria.core.errors import ConfigError
    from noria.tryon.pipeline.loading import tiny_pipeline
    from noria.tryon.pipeline.lora import load_lora
    from noria.tryon.pipeline.pipeline import ITryOnPipeline

    model = tiny_pipeline().transformer
    model.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=["to_q"]))
    model.save_lora_adapter(tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    one = tiny_pipeline()
    load_lora(one, file)
    assert one.transformer.blocks[0].attn1.to_q.scaling == {"garment": 2.0}
    with pytest.raises(ConfigError, match="one transformer"):
        load_lora(tiny_pipeline(), file, expert="low")
    parts = tiny_pipeline().components | {"transformer_2": tiny_pipeline(1).transformer}
    both = ITryOnPipeline(**parts, boundary_ratio=0.5)
    load_lora(both, file, expert="low")
    assert not hasattr(both.transformer, "peft_config")
    assert list(both.transformer_2.peft_config) == ["garment"]


def test_what_a_model_costs_is_known_without_its_weights(tmp_path: Path) -> None:
    from noria.tryon.pipeline.estimate import estimate
    from noria.tryon.pipeline.loading import outline, tiny_pipeline
    from noria.tryon.pipeline.settings import SamplingConfig

    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    for weights in (tmp_path / "model").rglob("*.safetensors"):
        weights.write_bytes(b"")
    known = outline(str(tmp_path / "model"), torch.float32)

    def cost(models: Any, **more: bool) -> Any:
        return estimate(models, (512, 512), 17, 1, 1, SamplingConfig(), actions=True, **more)

    assert cost(known) == cost(pipeline)
    assert cost(known, offload=True).weights_gib < cost(known).weights_gib
    assert cost(known, tiling=True).peak_gib < cost(known).peak_gib
    half = outline(str(tmp_path / "model"), torch.bfloat16)
    assert cost(half).weights_gib < cost(known).weights_gib


def test_a_preview_is_a_quarter_of_what_would_be_drawn(files: dict[str, Path], tmp_path: Path) -> None:
    canvas = []
    for words in ((), ("--preview",)):
        folder = tmp_path / str(len(words))
        given = (
            "-g",
            files["garment"],
            "-o",
            folder,
            "--steps",
            1,
            "--guidance",
            1,
            "--no-person-crop",
            "-q",
        )
        assert noria_tryon("generate", files["video"], "--mask", files["mask"], *given, *words) == 0
        canvas.append(np.prod(json.loads((folder / "result.json").read_text())["canvas"]))
    assert canvas[1] <= canvas[0] / 4


def test_a_pipeline_is_told_apart_by_all_that_its_results_depend_on(tmp_path: Path) -> None:
    import peft

    from noria.tryon.pipeline.loading import open_pipeline, pipeline_digest, tiny_pipeline

    first = pipeline_digest(tiny_pipeline())
    assert pipeline_digest(tiny_pipeline()) == first
    assert pipeline_digest(tiny_pipeline(arope_scale=2.0)) != first
    other = tiny_pipeline()
    other.scheduler.register_to_config(flow_shift=5.0)
    assert pipeline_digest(other) != first
    tiled = tiny_pipeline()
    tiled.vae.enable_tiling()
    assert pipeline_digest(tiled) != first
    strengths = []
    for alpha in (4, 8):
        adapted = tiny_pipeline()
        torch.manual_seed(0)
        adapted.transformer.add_adapter(peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=["to_q"]))
        strengths.append(pipeline_digest(adapted))
    assert len({first, *strengths}) == 3
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    named = {pipeline_digest(open_pipeline(str(tmp_path / name))) for name in ("model", "link")}
    assert len(named) == 1, "a folder has one digest under any name"


def test_a_finished_video_leaves_the_chunks_of_other_orders_alone(
    files: dict[str, Path], tmp_path: Path
) -> None:
    from noria.tryon.pipeline.chunks import ChunkStore

    other = ChunkStore(tmp_path / "g" / "chunks", "another order")
    other.save(0, "", torch.zeros(3, 5, 8, 8), {"shift": 0.0})
    options = (*all_of(files), "-g", files["garment"], "-o", tmp_path / "g", *FAST)
    assert noria_tryon("generate", *options) == 0
    assert other.load(0, "") is not None
    other.clear()
    assert not (tmp_path / "g" / "chunks").exists()


def test_a_video_of_another_order_is_never_called_finished(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from noria.core.errors import RunError

    options = (*all_of(files), "-g", files["garment"], "-o", tmp_path / "g", *FAST)
    assert noria_tryon("generate", *options) == 0
    first = read_clip(tmp_path / "g" / "result.mp4").frames

    def full(*args: Any) -> None:
        raise RunError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("noria.tryon.verbs.generate._write_page", full)
        assert noria_tryon("generate", *options, "--seed", 1) == 2
    assert noria_tryon("generate", *options) == 0
    assert np.array_equal(read_clip(tmp_path / "g" / "result.mp4").frames, first)


def test_half_a_model_that_screens_is_refused_before_a_model_is_opened(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noria.tryon.verbs.options.open_model", lambda *_: pytest.fail("it was opened"))
    options = (
        *all_of(files),
        "-g",
        files["garment"],
        "-o",
        tmp_path / "g",
        "--screen-url",
        "http://127.0.0.1:9",
    )
    assert noria_tryon("generate", *options) == 2
    assert noria_tryon("generate", *options, "--estimate") == 2
    assert noria_tryon("serve", "--uploads", "--screen-url", "http://127.0.0.1:9", "-o", tmp_path / "s") == 2
