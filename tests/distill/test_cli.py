"""The verbs as a user types them, and what he is told when he mistypes. The model is the teacher of digits
that ships."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from noria.cli import main
from noria.core.config import load_config
from noria.core.errors import CheckpointError, MissingExtra, install_command
from noria.core.models.flow import SmallTransformer, SmallTransformerConfig
from noria.core.progress import Task
from noria.core.runs.run import read_metrics
from noria.distill.config import PRESET_NOTES, PRESETS, DistillConfig
from noria.distill.evaluation import grids
from noria.distill.proof.running import DIGITS_TEACHER
from noria.distill.training.teacher import load_teacher, save_teacher
from noria.distill.verbs.train import TrainJobConfig, settings_and_folder

Type = Callable[..., SimpleNamespace]

QUICK = [
    "--preset",
    "cdm-small",
    "iterations=6",
    "batch_size=4",
    "checkpoint_every=2",
    "log_every=1",
    "schedule.max_steps=3",
]


@pytest.fixture
def type_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """`noria distill …` in an empty folder with a teacher and prompts: what it printed, and its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", sys.modules["warnings"].showwarning)  # put back afterwards
    (tmp_path / "teacher.safetensors").symlink_to(DIGITS_TEACHER)
    (tmp_path / "prompts.txt").write_text("".join(f"{n}\n" for n in range(10)))

    def run(*arguments: str) -> SimpleNamespace:
        with pytest.raises(SystemExit) as ended:
            main(["distill", *arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=out, err=err)

    return run


TRAIN = ["train", "--model", "teacher.safetensors", "--prompts", "prompts.txt"]


@pytest.fixture
def trained(type_: Type) -> Path:
    """A small run."""
    done = type_(*TRAIN, *QUICK, "-o", "run", "--quiet")
    assert done.code == 0, done.err
    return Path("run")


def resolve(
    *, file: Path | None = None, overrides: Sequence[str] = (), **options: str
) -> tuple[DistillConfig, Path]:
    """Settings and folder of a training, as the command line gives them."""
    given = {name: (f"--{name}", value) for name, value in options.items()}
    return settings_and_folder(load_config(TrainJobConfig, file=file, overrides=overrides, options=given))


def values(results: dict[str, Any], arm: str, name: str) -> dict[str, float]:
    return {s["grid"]: s["figures"][name] for s in results["scores"] if s["arm"] == arm}


# -- training ---------------------------------------------------------------------------------------------------------


def test_training_says_how_far_it_is_and_what_to_do_next(type_: Type) -> None:
    done = type_(*TRAIN, *QUICK, "ladder_every=3", "name=mine")
    assert done.code == 0
    assert "6 iterations, 3 student steps" in done.out
    assert "report  runs/distill/mine/report.html" in done.out
    assert "noria distill evaluate runs/distill/mine" in done.out
    assert "10 prompts; 247,172 trainable parameters" in done.err
    assert "it/s" in done.err
    run = Path("runs/distill/mine")
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {
        "cos_ca_dm",
        "critic_lag",
        "std_ratio",
        "loss_cdm",
        "grad_norm_critic",
        "ladder.4",
    } <= set().union(*rows)
    assert [row["step"] for row in rows if "ladder.4, shift 3" in row] == [3, 6]
    assert sorted(path.name for path in (run / "pictures").iterdir()) == [
        "ladder.png",
        "step-00000003.png",
        "step-00000006.png",
    ]
    page = (run / "report.html").read_text()
    for heading in (
        "Distance on every grid",
        "The ladder over training",
        "Losses",
        "Health",
        "Push by noise level",
    ):
        assert f"<h3>{heading}</h3>" in page


def test_the_log_ends_with_the_ladder_that_the_files_hold(type_: Type, trained: Path) -> None:
    done = type_(*TRAIN, *QUICK, "ladder_every=6", "-o", "other", "-q")
    assert done.code == 0
    ladder = json.loads(Path("other/ladder.json").read_text())
    logged = read_metrics(Path("other"))[-1]
    own = values(ladder, "student", "sliced_wasserstein")
    assert own == {name: logged[f"ladder.{name}"] for name in ("1", "2", "3", "4", "6", "8", "4, shift 3")}
    # The ladder looks on: it changes nothing of the training.
    last = "checkpoints/step-00000006/tensors.safetensors"
    ours, theirs = load_file(Path("other") / last), load_file(trained / last)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_same_command_again_makes_the_report_again_and_nothing_else(type_: Type, trained: Path) -> None:
    before = {
        p: p.read_bytes()
        for p in trained.rglob("*")
        if p.is_file() and p.suffix in (".jsonl", ".safetensors")
    }
    (trained / "report.html").unlink()
    assert type_(*TRAIN, *QUICK, "-o", "run", "-q").code == 0
    assert (trained / "report.html").exists()
    assert before == {p: p.read_bytes() for p in before}


def test_more_iterations_go_on_with_a_finished_run(type_: Type, trained: Path) -> None:
    done = type_(*TRAIN, *QUICK, "iterations=8", "-o", "run")
    assert done.code == 0
    assert "going on from iteration 6" in done.err
    straight = type_(*TRAIN, *QUICK, "iterations=8", "-o", "straight", "-q")
    assert straight.code == 0
    assert (trained / "metrics.jsonl").read_bytes() == Path("straight/metrics.jsonl").read_bytes()
    last = "checkpoints/step-00000008/tensors.safetensors"
    ours, theirs = load_file(trained / last), load_file(Path("straight") / last)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_model_and_prompts_that_moved_are_the_same_run(type_: Type, trained: Path) -> None:
    Path("elsewhere").mkdir()
    Path("teacher.safetensors").rename("elsewhere/model.safetensors")
    Path("prompts.txt").rename("elsewhere/list.txt")
    moved = ["train", "--model", "elsewhere/model.safetensors", "--prompts", "elsewhere/list.txt"]
    assert type_(*moved, *QUICK, "iterations=7", "-o", "run", "-q").code == 0
    lost = type_("sample", "run", "-p", "3")
    assert lost.code == 2
    assert "no such model file" in lost.err
    found = type_("sample", "run", "--model", "elsewhere/model.safetensors", "-p", "3", "-q")
    assert found.code == 0, found.err


def test_options_beat_overrides_beat_the_file_beat_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("preset: dmd2\nbatch_size: 3\nseed: 5\nmodel: file\nprompts: file.txt\nupdate_ratio: 7\n")
    config, folder = resolve(file=file, overrides=["seed=6", "model=override"], model="option")
    assert (config.preset, config.schedule.kind, config.batch_size, config.seed) == ("dmd2", "fixed", 3, 6)
    assert (config.model, config.prompts, config.update_ratio) == ("option", "file.txt", 7)
    assert folder == Path("runs/distill/option-dmd2")
    assert resolve(file=file, preset="cdm-small")[0].schedule.kind == "dynamic"
    assert resolve(file=file, overrides=["preset=consistency"])[0].objective.consistency_weight == 1


def test_a_blown_up_run_exits_1_and_keeps_its_last_checkpoint_and_a_report(type_: Type) -> None:
    done = type_(
        *TRAIN, *QUICK, "-o", "run", "student.lr=1e6", "student.warmup=0", "student.clip=1e9", "iterations=40"
    )
    assert done.code == 1
    assert "checkpoint is step-" in done.err.splitlines()[-1]
    assert "lower student.lr" in done.err.splitlines()[-1]
    assert list(Path("run/checkpoints").iterdir())
    assert "Stopped: " in Path("run/report.html").read_text()


# -- sampling, evaluating, reporting ----------------------------------------------------------------------------------


def test_samples_are_pictures_that_depend_on_seed_and_number_alone(type_: Type, trained: Path) -> None:
    done = type_("sample", "run", "-p", "3", "-p", "5", "--samples", "3", "-o", "a", "-q")
    assert done.code == 0, done.err
    assert "grid    a/grid.png" in done.out
    about = json.loads(Path("a/samples.json").read_text())
    assert [entry["prompt"] for entry in about["images"]] == ["3"] * 3 + ["5"] * 3
    assert about["sigmas"] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert Image.open("a/image-0000.png").size == (8, 8)
    assert type_("sample", "run", "-p", "3", "--samples", "2", "-o", "b", "-q", "--batch-size", "1").code == 0
    assert Path("a/image-0001.png").read_bytes() == Path("b/image-0001.png").read_bytes()
    assert type_("sample", "run", "-p", "3", "--seed", "1", "-o", "c", "-q").code == 0
    assert Path("a/image-0000.png").read_bytes() != Path("c/image-0000.png").read_bytes()


def test_the_memory_of_drawing_does_not_grow_with_the_number_of_images(
    type_: Type, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is written before the next is drawn, and the grid holds the first pictures only."""
    from noria.distill.verbs import sample

    monkeypatch.setattr(sample, "MOST_PICTURES", 4)
    drawn: list[int] = []
    starting = grids.starting_noise

    def watched(shape: tuple[int, ...], numbers: Sequence[int], seed: int) -> torch.Tensor:
        drawn.append(len(list(Path("s").glob("image-*.png"))))
        return starting(shape, numbers, seed)

    monkeypatch.setattr(grids, "starting_noise", watched)
    done = type_("sample", "run", "-p", "3", "--samples", "7", "--batch-size", "3", "-q", "-o", "s")
    assert done.code == 0, done.err
    assert drawn == [0, 3, 6]
    assert len(list(Path("s").glob("image-*.png"))) == 7
    assert Image.open("s/grid.png").width > 0


def test_a_students_teacher_draws_too(type_: Type, trained: Path) -> None:
    arguments = ["sample", "run", "-p", "3", "--teacher", "--guidance", "2", "--steps", "5", "-q", "-o", "t"]
    assert type_(*arguments).code == 0
    about = json.loads(Path("t/samples.json").read_text())
    assert (about["role"], about["guidance"], len(about["sigmas"])) == ("teacher", 2.0, 6)


def test_an_evaluation_is_a_table_a_file_and_a_page(type_: Type, trained: Path) -> None:
    done = type_("evaluate", "run", "--samples", "20", "-q")
    assert done.code == 0, done.err
    table = [line.split() for line in done.out.splitlines()]
    assert table[0][:3] == ["arm", "steps", "sliced"]
    assert "compared with the teacher's 50 steps at guidance 1.5, through pixels" in done.out
    results = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert list(values(results, "student", "frechet")) == ["1", "2", "3", "4", "6", "8", "4, shift 3"]
    assert values(results, "teacher", "frechet")["50"] == pytest.approx(0, abs=1e-9)  # the reference itself
    # Barely trained, the student is its teacher without guidance: a longer ride ends nearer.
    distance = values(results, "teacher", "teacher_distance")
    assert distance["1"] > distance["2"] > distance["4"] > distance["8"] > distance["50"] == 0
    plain = values(results, "teacher, unguided", "teacher_distance")
    student = values(results, "student", "teacher_distance")
    assert {grid: plain[grid] for grid in student} == pytest.approx(student, rel=0.05)
    assert plain["50"] > 0
    assert "<h3>All figures</h3>" in Path("run/evaluation/evaluation.html").read_text()
    assert Image.open("run/evaluation/samples.png").width > 8 * 8
    assert (
        json.loads(type_("evaluate", "run", "--samples", "20", "-q", "--json").out)["scores"]
        == results["scores"]
    )


def test_a_small_student_is_compared_with_real_digits(type_: Type, trained: Path) -> None:
    pytest.importorskip("sklearn")
    done = type_("evaluate", "run", "--samples", "60", "--reference", "digits", "-q")
    assert done.code == 0, done.err
    results = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert "1,797 real images (digits), through a classifier of digits" in done.out
    accuracy, recall = values(results, "teacher", "label_accuracy"), values(results, "teacher", "recall")
    assert accuracy["50"] > 0.9
    assert all(0 <= share <= 1 for share in recall.values())
    assert values(results, "teacher", "frechet")["1"] > values(results, "teacher", "frechet")["50"] > 0


def test_a_report_is_made_of_the_runs_files_alone(type_: Type, trained: Path) -> None:
    Path("teacher.safetensors").unlink()
    (trained / "report.html").unlink()
    assert type_("report", "run").out == "report  run/report.html\n"
    assert "Quality by number of steps" in (trained / "report.html").read_text()


WRONG: list[Any] = [None, True, -1, 1.5, "x", "\ud800", [], [1], {}, {"a": [1]}]


@pytest.mark.parametrize("name", ["config.json", "ladder.json"])
def test_any_type_in_any_field_of_a_runs_files_is_a_page_or_one_line(
    type_: Type, trained: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nothing is drawn here: what matters is that the fields are looked at before they are used."""
    monkeypatch.setattr("noria.core.pages.report.write_html", lambda *_, **__: None)
    content = json.loads((trained / name).read_text())
    first = content["scores"][0] if name == "ladder.json" else content["schedule"]
    for place in (content, first):
        for field, value in list(place.items()):
            for wrong in WRONG:
                place[field] = wrong
                (trained / name).write_text(json.dumps(content))
                done = type_("report", "run")
                assert done.code in (0, 2), (field, wrong, done.err)
                assert done.err.count("\n") == (done.code == 2), (field, wrong, done.err)
            place[field] = value


@pytest.mark.parametrize(
    "shape",
    [
        {"patch": 0},
        {"heads": 0},
        {"width": "64"},
        {"blocks": -1},
        {"blocks": 10**6},
        {"width": 4096, "blocks": 4096},
        {"image_size": None},
        {"image_size": 9},
        {"nothing": 1},
        [],
        "{",
    ],
    ids=str,
)
def test_a_small_model_with_a_strange_shape_is_one_line(type_: Type, shape: Any) -> None:
    tensors = load_file(DIGITS_TEACHER)
    known = vars(SmallTransformerConfig())
    text = (
        shape if isinstance(shape, str) else json.dumps(known | shape if isinstance(shape, dict) else shape)
    )
    save_file(tensors, "strange.safetensors", {"config": text})
    done = type_("train", "--model", "strange.safetensors", *TRAIN[3:])
    assert done.code == 2
    assert done.err.startswith("noria: error: strange.safetensors: not a small flow-matching transformer")
    assert done.err.count("\n") == 1


# -- teacher, presets -------------------------------------------------------------------------------------------------


def test_a_teacher_is_trained_and_can_be_distilled(type_: Type) -> None:
    pytest.importorskip("sklearn")
    done = type_(
        "teacher", "-o", "my/digits.safetensors", "--steps", "20", "--width", "16", "--blocks", "1", "-q"
    )
    assert done.code == 0, done.err
    (command,) = [
        line.removeprefix("next     noria distill ") for line in done.out.splitlines() if "next" in line
    ]
    assert type_(*command.split(), *QUICK[2:], "-q", "-o", "run").code == 0
    again = type_("teacher", "-o", "my/digits.safetensors", "--steps", "20")
    assert (again.code, "exists already" in again.err) == (2, True)


def test_every_preset_is_listed_and_shown_as_a_config_that_gives_it_back(type_: Type, tmp_path: Path) -> None:
    assert list(PRESET_NOTES) == list(PRESETS)
    listed = type_("presets").out.splitlines()
    assert [line.split()[0] for line in listed] == list(PRESETS)
    for name in PRESETS:
        text = type_("presets", "--show", name).out
        assert yaml.safe_load(text)["preset"] == name
        (tmp_path / "x.yaml").write_text(text)
        again, _ = resolve(model="m", prompts="p", file=tmp_path / "x.yaml")
        assert again.model_dump(exclude={"name", "model", "prompts"}) == DistillConfig(
            **PRESETS[name], preset=name
        ).model_dump(exclude={"name", "model", "prompts"})


def test_settings_are_told_before_pytorch_is_loaded() -> None:
    code = (
        "import sys; from noria.cli import main\n"
        "try: main(['distill', 'train', 'guidance=3'])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "False\n")


def test_importing_the_package_is_light_and_its_names_are_there_when_asked_for() -> None:
    code = (
        "import sys, noria.distill as d; light = 'torch' not in sys.modules\n"
        "missing = [n for n in d.__all__ if getattr(d, n) is None]; print(light, missing, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True [] True\n", done.stderr


# -- bad input --------------------------------------------------------------------------------------------------------


BAD: dict[str, tuple[list[str], str]] = {
    "no model": (["train", "--prompts", "prompts.txt"], "model: no model given; give --model"),
    "no prompts": (["train", "--model", "teacher.safetensors"], "prompts: no prompts given; give --prompts"),
    "model file missing": (["train", "--model", "x.safetensors", *TRAIN[3:]], "no such model file"),
    "model folder missing": (["train", "--model", "./x", *TRAIN[3:]], "no such model folder"),
    "hub id not in the cache": (["train", "--model", "nobody/nothing", *TRAIN[3:]], "local cache"),
    "not a pipeline": (["train", "--model", "empty", *TRAIN[3:]], "no model_index.json"),
    "not a small model": (["train", "--model", "text.safetensors", *TRAIN[3:]], "not a small flow-matching"),
    "prompts missing": ([*TRAIN[:3], "--prompts", "x.txt"], "x.txt: cannot be read"),
    "prompts empty": ([*TRAIN[:3], "--prompts", "empty.txt"], "empty.txt: no prompts"),
    "prompts not UTF-8": ([*TRAIN[:3], "--prompts", "latin.txt"], "latin.txt:2: not UTF-8"),
    "prompts of another model": (
        [*TRAIN[:3], "--prompts", "words.txt"],
        "words.txt: prompt 'a cat' is not a class",
    ),
    "prompts of another kind": ([*TRAIN[:3], "--prompts", "teacher.safetensors"], "are not known"),
    "step outside": ([*TRAIN, "schedule.steps=[1.5,0.5]"], "(0, 1]"),
    "step zero": ([*TRAIN, "schedule.steps=[1,0]"], "(0, 1]"),
    "steps rising": ([*TRAIN, "schedule.steps=[1,0.2,0.5]"], "must fall strictly"),
    "guidance on the student": (
        [*TRAIN, "guidance=3"],
        "override 'guidance=3': guidance: guidance 3.0 on the student",
    ),
    "unknown preset": ([*TRAIN, "--preset", "cmd-sd3"], "unknown preset 'cmd-sd3'; did you mean 'cdm-sd3'?"),
    "unknown preset in the file": ([*TRAIN, "--config", "preset.yaml"], "did you mean 'dmd2'?"),
    "unknown key": (
        [*TRAIN, "objective.ca_scal=1"],
        "unknown field 'objective.ca_scal'; did you mean 'ca_scale'?",
    ),
    "unknown key in the file": ([*TRAIN, "--config", "key.yaml"], "key.yaml:2: unknown field 'bach_size'"),
    "wrong type": ([*TRAIN, "iterations=many"], "iterations: input should be a valid integer"),
    "not key=value": ([*TRAIN, "iterations"], "unexpected extra argument"),
    "config missing": ([*TRAIN, "--config", "x.yaml"], "x.yaml: cannot be read"),
    "variant of a small model": ([*TRAIN, "--variant", "fp16"], "variant: variant fp16, but a small model"),
    "variant that is a path": ([*TRAIN, "--variant", "../x"], "--variant: string should match pattern"),
    "LoRA of a full training": ([*TRAIN, "lora.rank=4"], "lora.rank=4 is not read: it needs train=lora"),
    "longest of a fixed schedule": (
        [*TRAIN, "--preset", "dmd2", "schedule.max_steps=9"],
        "schedule.max_steps=9 is not read",
    ),
    "scale of no CA": ([*TRAIN, "--preset", "cdm-no-ca", "objective.ca_scale=3"], "ca_scale=3.0 is not read"),
    "critic of consistency": (
        [*TRAIN, "--preset", "consistency", "critic.lr=1e-3"],
        "critic.lr=0.001 is not read",
    ),
    "wrong size": ([*TRAIN, "height=16"], "height: height 16, but the model draws 8 pixels"),
    "output climbs": ([*TRAIN, "-o", "../x"], "--output: the path '../x' leaves its folder"),
    "name climbs": ([*TRAIN, "name=../x"], "name: '../x' does not stay inside runs/distill"),
    "name absolute": ([*TRAIN, "name=/tmp/x"], "name: '/tmp/x' does not stay inside runs/distill"),
    "output is a file": ([*TRAIN, "-o", "prompts.txt"], "there is a file of that name"),
    "output is something else": (
        [*TRAIN, "-o", "other"],
        "other: the folder holds something else than a run",
    ),
    "no checkpointing": ([*TRAIN, "gradient_checkpointing=true"], "has no gradient checkpointing"),
    "unknown option": ([*TRAIN, "--modle", "x"], "No such option"),
    "sample nothing": (["sample", "x"], "x: neither a training run nor an exported student"),
    "sample what is no run": (["sample", "empty"], "neither a training run nor an exported student"),
    "sample with guidance": (["sample", "x", "--guidance", "3"], "--guidance: guidance 3 on the student"),
    "sample two grids": (["sample", "x", "--steps", "2", "--sigmas", "1,.5"], "both --steps and --sigmas"),
    "sample no numbers": (["sample", "x", "--sigmas", "1,half"], "--sigmas: input should be a valid number"),
    "evaluate nothing": (["evaluate", "x"], "x: neither a training run nor an exported student"),
    "evaluate one sample": (
        ["evaluate", "x", "--samples", "1"],
        "--samples: input should be greater than",
    ),
    "export nothing": (["export", "x", "-o", "y"], "x: neither a training run nor an exported student"),
    "export climbs": (["export", "x", "-o", "../y"], "--output: the path '../y' leaves its folder"),
    "teacher of nothing": (["teacher", "--data", "x", "-o", "t.safetensors"], "no MNIST digits here"),
    "teacher of another kind": (["teacher", "-o", "t.bin"], "does not end in .safetensors"),
    "report of nothing": (["report", "x"], "x: no run here"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_exit_2_and_leaves_no_trace(type_: Type, tmp_path: Path, case: str) -> None:
    arguments, told = BAD[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").touch()
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "latin.txt").write_bytes("1\nü\n".encode("latin-1"))
    (tmp_path / "words.txt").write_text("a cat\n")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "preset.yaml").write_text("preset: dmd\n")
    (tmp_path / "key.yaml").write_text("seed: 1\nbach_size: 2\n")
    before = sorted(tmp_path.rglob("*")), sorted(tmp_path.parent.glob("*"))
    done = type_(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("noria: error: ")
    assert done.err.count("\n") == 1, done.err
    assert told in done.err
    assert (sorted(tmp_path.rglob("*")), sorted(tmp_path.parent.glob("*"))) == before


def test_a_flipped_bit_in_a_teachers_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    save_teacher(SmallTransformer(SmallTransformerConfig(width=16, blocks=1)), path)
    assert load_teacher(path).config.width == 16
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="not what was written"):
        load_teacher(path)


def test_a_run_of_other_settings_model_or_prompts_is_not_gone_on_with(type_: Type, trained: Path) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    save_teacher(SmallTransformer(SmallTransformerConfig(width=16, blocks=1)), Path("small.safetensors"))
    Path("few.txt").write_text("1\n2\n")
    for arguments, told in (
        (["train", "--model", "small.safetensors", *TRAIN[3:], *QUICK], "has another model"),
        ([*TRAIN[:3], "--prompts", "few.txt", *QUICK], "has another prompts"),
        ([*TRAIN, *QUICK, "objective.ca_scale=2"], "objective.ca_scale"),
    ):
        done = type_(*arguments, "-o", "run")
        assert done.code == 2
        assert told in done.err
        assert done.err.count("\n") == 1
    after = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert after == before
    other = type_("sample", "run", "--model", "small.safetensors")
    assert (other.code, "trained on another model" in other.err) == (2, True)


def test_a_damaged_checkpoint_is_skipped_with_a_word_and_all_damaged_is_an_error(
    type_: Type, trained: Path
) -> None:
    whole = (trained / "metrics.jsonl").read_bytes()
    last, earlier = (trained / f"checkpoints/step-{n:08d}/tensors.safetensors" for n in (6, 4))
    last.write_bytes(last.read_bytes()[:-100])
    drawn = type_("sample", "run", "-q", "-p", "1")
    assert drawn.code == 0
    assert "noria: warning: " in drawn.err
    assert "it is skipped" in drawn.err
    done = type_(*TRAIN, *QUICK, "-o", "run")
    assert done.code == 0
    assert "going on from iteration 4" in done.err
    assert (trained / "metrics.jsonl").read_bytes() == whole
    for file in (last, earlier):
        file.write_bytes(b"")
    for arguments in ([*TRAIN, *QUICK, "-o", "run"], ["sample", "run"], ["export", "run", "-o", "x"]):
        done = type_(*arguments)
        assert done.code == 2
        assert "every checkpoint is damaged" in done.err.splitlines()[-1]
        assert done.err.splitlines()[-1].startswith("noria: error: ")


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(type_: Type, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))  # a checkpoint is larger

    command = [sys.executable, "-m", "noria.cli", "distill", *TRAIN, *QUICK, "-o", "run", "-q"]
    done = subprocess.run(command, cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "free some space and run the same command again" in done.stderr
    assert [path.name for path in Path("run/checkpoints").iterdir()] == []
    assert type_(*TRAIN, *QUICK, "-o", "run", "-q").code == 0
    assert type_(*TRAIN, *QUICK, "-o", "straight", "-q").code == 0
    assert Path("run/metrics.jsonl").read_bytes() == Path("straight/metrics.jsonl").read_bytes()


def test_two_cannot_train_one_run(type_: Type, trained: Path) -> None:
    from noria.core.files import lock

    with lock(trained):
        done = type_(*TRAIN, *QUICK, "-o", "run")
    assert done.code == 2
    assert "in use by another process" in done.err


def test_a_missing_extra_is_named(type_: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> None:
        raise MissingExtra(module.partition(".")[0], extra)

    monkeypatch.setattr("noria.verbs.command.require", missing)
    done = type_(*TRAIN)
    assert done.code == 2
    mend = install_command("distill")
    assert done.err == f"noria: error: the package 'torch' is not installed; mend it with: {mend}\n"


def test_an_interrupt_says_what_is_kept(type_: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    at = Task.at

    def stop(self: Task, step: int, note: str | None = None) -> None:
        at(self, step, note)
        if step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Task, "at", stop)
    done = type_(*TRAIN, *QUICK, "-o", "run")
    assert done.code == 130
    assert "stopped at iteration 5: step-00000004 is kept; the same command goes on from there" in done.err


def test_a_teacher_cannot_be_half_written(type_: Type, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        Path("full").symlink_to("/dev/full")
        target = "full/x.safetensors"
    else:
        Path("shut").mkdir(mode=0o500)
        target = "shut/x.safetensors"
    done = type_("teacher", "-o", target, "--steps", "20", "--width", "16", "--blocks", "1", "-q")
    assert done.code == 2
    assert done.err.count("\n") == 1
