"""Training: the objective's identities, manifests, caches that are never stale, and runs that resume to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("av")

from noria.core.errors import ConfigError, DataError, RunError  # noqa: E402
from noria.core.progress import Progress  # noqa: E402
from noria.core.runs.run import latest_checkpoint, read_metrics  # noqa: E402
from noria.tryon.actions.reading import Action  # noqa: E402
from noria.tryon.pipeline.loading import tiny_pipeline  # noqa: E402
from noria.tryon.training.cache import ClipCache  # noqa: E402
from noria.tryon.training.config import ClipFormat, TrainConfig  # noqa: E402
from noria.tryon.training.loading import open_any  # noqa: E402
from noria.tryon.training.manifest import read_manifest  # noqa: E402
from noria.tryon.training.objective import draw_sigmas, drop, flow_loss, velocity  # noqa: E402
from noria.tryon.training.trainer import Trainer, _rows, trainable  # noqa: E402
from noria.tryon.verbs.train import TrainJobConfig, run as train  # noqa: E402
from tests.processes import free_port  # noqa: E402
from tests.tryon.world_files import write_manifest  # noqa: E402

FORM: dict[str, Any] = {"frames": 9, "most_pixels": 32 * 48}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def trainer(manifest: Path) -> Trainer:
    config = TrainConfig(data=manifest, batch_size=2, **FORM)
    pipeline = tiny_pipeline()
    cache = ClipCache(manifest.parent / "cache", pipeline, ClipFormat(**FORM))
    return Trainer(pipeline, config, [cache.clip(record) for record in read_manifest(manifest)], cache)


def job(manifest: Path, folder: Path, **more: Any) -> TrainJobConfig:
    values = {
        "steps": 4,
        "batch_size": 2,
        "save_every": 2,
        "log_every": 1,
        "strip_every": 2,
        "warmup": 2,
        "lr": 1e-3,
    }
    return TrainJobConfig(data=manifest, output=str(folder), quiet=True, **FORM | values | more)


def test_a_batch_has_the_garments_as_its_leading_frames(trainer: Trainer) -> None:
    batch = trainer.batch(trainer.clips)
    assert batch.clean.shape == (2, 16, 4, 4, 6)
    assert torch.equal(batch.clean[:, :, 0], batch.control[:, :16, 0])
    assert not batch.control[:, 16:, 0].any()
    assert batch.acting.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert batch.hand_scale is not None
    assert batch.hand_scale.tolist() == [1, 0]
    assert batch.actions is not None
    assert batch.actions.mask.any(1).tolist() == [True, False]


def test_the_loss_is_flow_matching_and_lambda_weighs_the_acting_frames(trainer: Trainer) -> None:
    batch = trainer.batch(trainer.clips)
    noise = torch.randn(batch.clean.shape, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        plain, figures = flow_loss(trainer.model, batch, sigmas, noise, weight=0.0)
        weighed, _ = flow_loss(trainer.model, batch, sigmas, noise, weight=2.0)
    # 2 of 8 frames act: their mean is a quarter of the term
    assert float(weighed - plain) == pytest.approx(2.0 * figures["acting"] / 4, rel=1e-5)


def test_dropped_captions_take_their_actions_along_and_dropped_hands_are_silent(trainer: Trainer) -> None:
    batch = trainer.batch(trainer.clips)
    empty = trainer._padded("")
    draw = torch.Generator().manual_seed(0)
    none = drop(batch, draw, empty, text=1.0, hands=1.0)
    assert none.actions is not None
    assert not none.actions.mask.any()
    assert torch.equal(none.text[0], empty)
    assert none.hand_scale is not None
    assert not none.hand_scale.any()
    same = drop(batch, draw, empty, text=0.0, hands=0.0)
    assert torch.equal(same.text, batch.text)
    assert torch.equal(same.hand_scale, batch.hand_scale)


def test_noise_levels_have_their_law() -> None:
    draw = torch.Generator().manual_seed(0)
    uniform = draw_sigmas(4000, draw, "uniform")
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.02)
    shifted = draw_sigmas(4000, draw, "uniform", shift=5.0)
    assert float((shifted < 5 * 0.5 / 3).float().mean()) == pytest.approx(
        0.5, abs=0.03
    )  # the median is shifted
    assert float(draw_sigmas(4000, draw, "logit_normal").median()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("law", ["uniform", "logit_normal"])
def test_an_experts_noise_levels_have_the_law_of_all_levels_within_its_bounds(law: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    every = draw_sigmas(60_000, draw, law, 3.0)
    for low, high in ((0.875, 1.0), (0.0, 0.875)):
        mine = draw_sigmas(20_000, draw, law, 3.0, (low, high))
        assert low <= float(mine.min()) <= float(mine.max()) <= high
        theirs = every[(every >= low) & (every <= high)]
        for share in (0.1, 0.5, 0.9):
            assert float(mine.quantile(share)) == pytest.approx(float(theirs.quantile(share)), abs=0.02)


@pytest.mark.parametrize(("kind", "base"), [("full", True), ("lora", False), ("guider", False)])
def test_each_kind_trains_what_it_says(kind: Any, base: bool) -> None:
    if kind == "lora":
        pytest.importorskip("peft")
    model = tiny_pipeline().transformer
    names = trainable(model, TrainConfig(train=kind, rank=2)).keys()
    assert any(name.startswith("guider.") for name in names)
    assert any(name.endswith("action_gate") for name in names)
    assert ("patch_embedding.weight" in names) == base
    assert any("lora_A" in name for name in names) == (kind == "lora")


def test_presets_lie_under_what_is_given() -> None:
    assert not TrainConfig(preset="stage1").use_actions
    assert TrainConfig(preset="stage2").ac_weight == 0.5
    assert TrainConfig(preset="stage1", ac_weight=0.2).ac_weight == 0.2
    with pytest.raises(ConfigError, match="stage1"):
        TrainConfig(preset="stage3")


def test_the_cache_is_used_and_is_never_stale(manifest: Path, tmp_path: Path) -> None:
    pipeline, record = tiny_pipeline(), read_manifest(manifest)[0]

    def encode(**form: Any) -> tuple[int, Any]:
        cache = ClipCache(tmp_path, pipeline, ClipFormat(**FORM | form))
        clean = cache.latents(cache.clip(record)).clean
        return cache.made, clean

    first, again = encode(), encode()
    assert (first[0], again[0]) == (1, 0)
    assert torch.equal(first[1], again[1])
    assert encode(mask_grow=0)[0] == 1
    (entry, *_) = sorted((tmp_path / "clips").glob("*.safetensors"))
    raw = bytearray(entry.read_bytes())
    raw[200] ^= 1
    entry.write_bytes(raw)
    assert encode()[0] + encode(mask_grow=0)[0] == 1  # the damaged one is made anew
    entry.with_suffix(".json").write_text("{")
    assert encode()[0] + encode(mask_grow=0)[0] == 1


def test_memory_holds_a_bounded_part_of_the_clips(manifest: Path, tmp_path: Path) -> None:
    pipeline, records = tiny_pipeline(), read_manifest(manifest)
    cache = ClipCache(tmp_path, pipeline, ClipFormat(**FORM), memory=1)
    clips = [cache.clip(record) for record in records]
    assert not cache._held, "to know of a clip is not to hold it"
    first = [cache.latents(clip).control for clip in clips]
    assert len(cache._held) == 1
    again = [cache.latents(clip).control for clip in clips]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert cache.made == len(clips)


def test_a_part_of_a_clip_has_the_captions_of_its_own_actions(manifest: Path, tmp_path: Path) -> None:
    actions = (Action(0.0, 0.2, "before"), Action(0.35, 0.5, "in it"))
    record = replace(read_manifest(manifest)[0], span=(5, 9), actions=actions)
    clip = ClipCache(tmp_path, tiny_pipeline(), ClipFormat(**FORM)).clip(record)
    assert clip.captions == ("in it",)
    assert set(clip.table.tolist()) == {0, 1}


def test_a_mask_that_follows_the_action_teaches_nothing_of_it(manifest: Path, tmp_path: Path) -> None:
    """Two clips whose masks differ within the frames of an action alone have the same control's mask."""
    row = json.loads(manifest.read_text().splitlines()[0])
    given = np.load(manifest.parent / row["mask"])["mask"].astype(bool)
    moved = given.copy()
    moved[3, -4:] = True
    whole = given.copy()
    whole[2:7, -4:] = True  # .1 to .4 s
    controls = []
    for name, mask in {"moved": moved, "whole": whole}.items():
        np.savez(manifest.parent / f"{name}.npz", mask=mask)
        path = manifest.with_name(f"{name}.jsonl")
        path.write_text(json.dumps(row | {"mask": f"{name}.npz"}) + "\n")
        cache = ClipCache(tmp_path, tiny_pipeline(), ClipFormat(**FORM, mask_window=1))
        controls.append(cache.latents(cache.clip(read_manifest(path)[0])).control)
    assert torch.equal(controls[0][32:], controls[1][32:])


@pytest.mark.parametrize("context", ["joint", "decoupled"])
@pytest.mark.parametrize("index", ["paper", "anchored"])
def test_a_clip_without_its_captions_is_one_without_actions(manifest: Path, context: str, index: str) -> None:
    """What guidance calls without actions is what was trained without them, whatever else is in the batch."""
    pipeline = tiny_pipeline(arope_context=context, arope_index=index)
    cache = ClipCache(manifest.parent / "cache", pipeline, ClipFormat(**FORM))
    clips = [cache.clip(record) for record in read_manifest(manifest)]
    trainer = Trainer(pipeline, TrainConfig(data=manifest, batch_size=2, **FORM), clips, cache)
    with torch.no_grad():
        for name, value in trainer.model.named_parameters():
            if "action" in name:
                value.add_(0.3)
    trainer.model.eval()
    batch = trainer.batch(clips)
    noisy = torch.randn(batch.clean.shape, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([0.3, 0.8])
    dropped = drop(batch, torch.Generator().manual_seed(0), trainer._padded(""), text=1.0, hands=0.0)
    plain = replace(dropped, actions=None)
    with torch.no_grad():
        one, other = (velocity(trainer.model, b, noisy, sigmas) for b in (dropped, plain))
        assert float((one - other).abs().max()) < 1e-5
        mixed = velocity(trainer.model, batch, noisy, sigmas)[1]  # the second clip has no action
        alone = velocity(trainer.model, replace(batch, actions=None), noisy, sigmas)
        assert float((mixed - alone[1]).abs().max()) < 1e-5
        changed = velocity(trainer.model, batch, noisy, sigmas)[0]
        assert float((changed - alone[0]).abs().max()) > 1e-3, "actions do act"


def test_sixteen_bits_lose_no_step(manifest: Path, tmp_path: Path) -> None:
    folder = train(
        job(manifest, tmp_path / "run", precision="bf16", lr=1e-6, steps=2), Progress(quiet=True)
    ).folder
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    stored = {name: value for name, value in checkpoint.tensors.items() if name.startswith("tryon.")}
    assert {value.dtype for value in stored.values()} == {torch.float32}
    start = dict(open_any("tiny", dtype=torch.bfloat16).transformer.named_parameters())
    moved = [(value - start[name.removeprefix("tryon.")].float()).abs() for name, value in stored.items()]
    assert sum(float((one > 0).float().sum()) for one in moved) > 0.5 * sum(one.numel() for one in moved)
    assert max(float(one.detach().max()) for one in moved) < 1e-5, "each step is that small"


def test_a_run_that_was_stopped_ends_with_the_same_bits(manifest: Path, tmp_path: Path) -> None:
    whole = train(job(manifest, tmp_path / "whole"), Progress(quiet=True)).folder
    train(job(manifest, tmp_path / "parts", steps=2), Progress(quiet=True))
    parts = train(job(manifest, tmp_path / "parts"), Progress(quiet=True)).folder
    one, other = latest_checkpoint(whole), latest_checkpoint(parts)
    assert one is not None
    assert other is not None
    assert one.step == other.step == 4
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
    assert read_metrics(whole) == read_metrics(parts)
    assert len(list((whole / "strips").iterdir())) == 2
    assert "Mean square" in (whole / "report.html").read_text()
    with pytest.raises(RunError, match="lr"):
        train(job(manifest, tmp_path / "parts", lr=1e-4), Progress(quiet=True))


def test_training_lowers_the_loss_and_its_run_is_a_model(manifest: Path, tmp_path: Path) -> None:
    folder = train(
        job(manifest, tmp_path / "run", steps=60, save_every=60, lr=5e-3), Progress(quiet=True)
    ).folder
    losses = [row["loss"] for row in read_metrics(folder)]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    model = open_any(str(folder)).transformer
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    assert torch.equal(model.guider.project[0].weight, checkpoint.tensors["tryon.guider.project.0.weight"])
    assert float(model.guider.project[0].weight.abs().max()) > 0


def test_an_expert_of_two_is_trained_by_its_name(manifest: Path, tmp_path: Path) -> None:
    from noria.tryon.pipeline.pipeline import ITryOnPipeline

    one, other = tiny_pipeline(0), tiny_pipeline(1)
    both = ITryOnPipeline(**one.components | {"transformer_2": other.transformer}, boundary_ratio=0.875)
    both.save_pretrained(tmp_path / "both")
    given = {"model": str(tmp_path / "both"), "steps": 2}
    with pytest.raises(ConfigError, match="the model has two experts"):
        train(job(manifest, tmp_path / "run", **given), Progress(quiet=True))
    with pytest.raises(ConfigError, match="one transformer"):
        train(job(manifest, tmp_path / "run", steps=2, expert="low"), Progress(quiet=True))
    low = train(job(manifest, tmp_path / "low", **given, expert="low"), Progress(quiet=True)).folder
    both_trained = train(
        job(manifest, tmp_path / "high", **given | {"model": str(low)}, expert="high"), Progress(quiet=True)
    )
    opened = open_any(str(both_trained.folder))
    for name, start in (("transformer", one.transformer), ("transformer_2", other.transformer)):
        before, after = dict(start.named_parameters()), dict(getattr(opened, name).named_parameters())
        assert not torch.equal(after["blocks.0.attn1.to_q.weight"], before["blocks.0.attn1.to_q.weight"]), (
            name
        )
    mine = dict(open_any(str(low)).transformer.named_parameters())
    assert torch.equal(
        mine["blocks.0.attn1.to_q.weight"],
        dict(one.transformer.named_parameters())["blocks.0.attn1.to_q.weight"],
    )


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_where_they_stopped(manifest: Path, tmp_path: Path) -> None:
    """The command that the documentation gives, on the CPU: the same global batch, in two processes."""
    more = {"lr": 1e-3, "ac_normalize": "masked", "text_drop": 0.0, "strip_every": 100}
    one = train(job(manifest, tmp_path / "one", **more), Progress(quiet=True)).folder
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    options = {"data": manifest, "frames": 9, "most-pixels": 32 * 48, "batch-size": 2, "save-every": 2}
    options |= {
        "log-every": 1,
        "warmup": 2,
        "lr": 1e-3,
        "ac-normalize": "masked",
        "text-drop": 0.0,
        "strip-every": 100,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    for steps in (2, 4):
        command = [
            *launch,
            "--main_process_port",
            str(free_port()),
            "-m",
            "noria.cli",
            "tryon",
            "train",
            *words,
        ]
        done = subprocess.run(
            [*command, "--steps", str(steps), "-o", str(tmp_path / "two"), "-q"],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 0, done.stderr[-3000:]
    first, second = read_metrics(one), read_metrics(tmp_path / "two")
    assert [row["step"] for row in second] == [1, 2, 3, 4]
    for row, other in zip(first, second, strict=True):
        # gradients of the same global batch: equal but for the order of sums
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-4)
    whole, shared = latest_checkpoint(one), latest_checkpoint(tmp_path / "two")
    assert whole is not None
    assert shared is not None
    assert whole.tensors.keys() == shared.tensors.keys()
    for name, value in whole.tensors.items():
        if name.startswith("tryon."):
            assert torch.allclose(value, shared.tensors[name], atol=2e-4), name


def test_parts_of_a_batch_have_its_loss_as_their_mean_however_the_actions_are_spread(
    trainer: Trainer,
) -> None:
    batch = trainer.batch(trainer.clips)  # the first clip has two acting frames, the second none
    noise = torch.randn(batch.clean.shape, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        for normalize in ("all", "masked"):
            whole, _ = flow_loss(trainer.model, batch, sigmas, noise, normalize=normalize)
            parts = [
                flow_loss(
                    trainer.model,
                    _rows(batch, row),
                    sigmas[row],
                    noise[row],
                    normalize=normalize,
                    acting_frames=2 / 2,
                )[0]
                for row in (slice(0, 1), slice(1, 2))
            ]
            assert float(sum(parts)) / 2 == pytest.approx(float(whole), rel=1e-5)


def test_lora_keeps_the_base_weights(manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = train(job(manifest, tmp_path / "run", preset="lora", rank=2), Progress(quiet=True)).folder
    model, base = open_any(str(folder)).transformer, tiny_pipeline().transformer
    weights = dict(base.named_parameters())
    assert torch.equal(model.blocks[0].attn1.to_q.base_layer.weight, weights["blocks.0.attn1.to_q.weight"])
    assert float(model.blocks[0].attn1.to_q.lora_B["default"].weight.abs().max()) > 0


def test_magictryons_and_diffsynths_manifests_are_read(tmp_path: Path) -> None:
    line = {
        "video": "12_detail.mp4",
        "image": "12_in_xl.jpg",
        "type": "video",
        "front_seqs": [0, 64],
        "subdir": "dresses",
    }
    (tmp_path / "vivid.jsonl").write_text(json.dumps(line) + "\n")
    (record,) = read_manifest(tmp_path / "vivid.jsonl")
    assert record.video == tmp_path / "dresses" / "videos" / "12_detail.mp4"
    assert record.mask == tmp_path / "dresses" / "agnostic_mask" / "12_detail.mp4"
    assert record.span == (0, 64)
    (tmp_path / "metadata.csv").write_text(
        "video,vace_video,vace_video_mask,vace_reference_image,prompt\nv.mp4,a.mp4,m.mp4,g.png,a person\n"
    )
    (record,) = read_manifest(tmp_path / "metadata.csv")
    assert (record.mask, record.garments, record.caption) == (
        tmp_path / "m.mp4",
        (tmp_path / "g.png",),
        "a person",
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": "../v.mp4"}, "does not stay inside"),
        ({"garment": "/etc/passwd"}, "does not stay inside"),
        ({"video": None}, "no video"),
        ({"actions": [{"start": 2, "end": 1, "caption": "x"}]}, "action 1"),
        ({"actions": [{"start": 0, "end": 1}]}, "action 1"),
        ({"other": 1}, "unknown field"),
    ],
    ids=["above", "absolute", "none", "backwards", "caption", "field"],
)
def test_records_that_are_none_are_refused_with_their_line(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    good = {"id": "a", "video": "v.mp4", "garment": "g.png", "mask": "m.npz"}
    (tmp_path / "m.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(good | {"id": "b"} | row) + "\n")
    with pytest.raises(DataError, match=f"m.jsonl:2.*{message}"):
        read_manifest(tmp_path / "m.jsonl")
