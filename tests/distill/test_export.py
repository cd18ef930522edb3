from __future__ import annotations

import copy
import errno
import hashlib
import importlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from noria.core import files
from noria.core.config import load_config
from noria.core.errors import CheckpointError, ConfigError, DataError, ModelError, RunError
from noria.core.models.flow import SmallTransformer, SmallTransformerConfig, euler
from noria.distill.adapters import SmallAdapter
from noria.distill.config import ExportConfig
from noria.distill.integrations.diffusers import PipelineAdapter, open_pipeline
from noria.distill.students import export, few_step, weights
from noria.distill.students.card import LORA_FILE
from noria.distill.students.export import export_student
from noria.distill.students.loading import open_student
from tests.distill.tiny_pipelines import BUILDERS, build_sd3

PRE_SHIFT = [1.0, 0.75, 0.5, 0.25]
PROMPT = "a photo of a red cat"
HEIGHT, WIDTH = 32, 48

Open = Callable[[str], PipelineAdapter]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {name: build(root / name) for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def tiny(folders: dict[str, Path]) -> Open:
    opened: dict[str, PipelineAdapter] = {}

    def get(name: str) -> PipelineAdapter:
        if name not in opened:
            opened[name] = open_pipeline(folders[name], height=HEIGHT, width=WIDTH)
        return opened[name]

    return get


@pytest.fixture
def registered() -> Iterator[None]:
    import diffusers

    places = [(getattr(diffusers, name), "__call__") for name in few_step.FAMILIES]
    places.append((diffusers.FlowMatchEulerDiscreteScheduler, "set_timesteps"))
    stock = [getattr(owner, name) for owner, name in places]
    few_step.register()
    yield
    for (owner, name), method in zip(places, stock, strict=True):
        setattr(owner, name, method)


def moved(network: torch.nn.Module, seed: int = 1, scale: float = 0.05) -> torch.nn.Module:
    """A copy with every weight moved: a fully trained student."""
    student = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * scale)
    return student


def adapted(adapter: PipelineAdapter, *, rank: int = 2, alpha: float = 6.0) -> torch.nn.Module:
    """A copy with trained LoRA adapters "student" and "critic", as the trainer makes them."""
    network = copy.deepcopy(adapter.network)
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=adapter.lora_targets)
    generator = torch.Generator().manual_seed(2)
    for name in ("student", "critic"):
        peft.inject_adapter_in_model(settings, network, adapter_name=name)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    for module in network.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            module.set_adapter("student")
    return network


def noise(adapter: PipelineAdapter, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, *adapter.latent_shape, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def integrate(
    adapter: PipelineAdapter, network: torch.nn.Module, x: torch.Tensor, grid: list[float]
) -> torch.Tensor:
    condition = adapter.encode([PROMPT] * len(x))
    return euler(lambda x, s: adapter.velocity(network, x, s, condition), x, adapter.contract.grid(grid))


@torch.no_grad()
def velocity(adapter: PipelineAdapter, network: torch.nn.Module) -> torch.Tensor:
    return adapter.velocity(network, noise(adapter), torch.tensor([0.7]), adapter.encode([PROMPT]))


def reopened(folder: Path, **settings: Any) -> Any:
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def batches(network: torch.nn.Module) -> list[int]:
    """Batch size of every call from now on."""
    sizes: list[int] = []
    network.register_forward_hook(
        lambda _, __, kwargs, ___: sizes.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    return sizes


def tree(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


# -- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", list(BUILDERS))
def test_the_plain_call_of_a_reopened_export_is_the_student_on_its_grid(
    tiny: Open, tmp_path: Path, name: str
) -> None:
    adapter = tiny(name)
    student, grid = moved(adapter.network), [1.0, 0.8, 0.35]
    export_student(adapter, student, tmp_path / "out", ExportConfig(sigmas=tuple(grid)))
    pipe = reopened(tmp_path / "out")
    sizes = batches(pipe.transformer)
    latents = pipe(PROMPT, latents=noise(adapter), output_type="latent").images
    assert sizes == [1, 1, 1], "three steps, and no second call or doubled batch for guidance"
    torch.testing.assert_close(
        latents, integrate(adapter, student, noise(adapter), grid), atol=1e-4, rtol=1e-4
    )
    assert pipe(PROMPT, output_type="np").images.shape == (1, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", list(BUILDERS))
def test_the_call_on_the_card_is_right_for_stock_diffusers(tiny: Open, tmp_path: Path, name: str) -> None:
    adapter = tiny(name)
    student = moved(adapter.network)
    export_student(adapter, student, tmp_path / "out", ExportConfig(sigmas=tuple(PRE_SHIFT)))
    card = (tmp_path / "out/README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code
    runnable = code[1].replace("this-folder", str(tmp_path / "out")).replace("a prompt", PROMPT)
    runnable = runnable.replace(").images[0]", "    **more,\n).images")
    scope: dict[str, Any] = {"more": {"latents": noise(adapter), "output_type": "latent"}}
    exec(runnable, scope)
    torch.testing.assert_close(
        scope["image"], integrate(adapter, student, noise(adapter), PRE_SHIFT), atol=1e-4, rtol=1e-4
    )


def test_the_cards_call_to_register_is_right(tiny: Open, tmp_path: Path) -> None:
    export_student(tiny("sd3"), tiny("sd3").network, tmp_path / "out")
    code = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)[1]
    module, name = re.search(r"from (noria\S+) import (\w+)", code).groups()  # type: ignore[union-attr]
    assert getattr(importlib.import_module(module), name) is few_step.register


def test_the_folders_own_pipeline_file_gives_the_defaults_without_noria(
    tiny: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    adapter = tiny("sd3")
    student = moved(adapter.network)
    folder = export_student(adapter, student, tmp_path / "out", ExportConfig(sigmas=tuple(PRE_SHIFT))).folder
    assert not re.search(r"^\s*(import|from) noria", (folder / "pipeline.py").read_text(), re.MULTILINE)
    assert type(reopened(folder)).__module__.startswith("diffusers."), "opened without trust, no code is run"
    pipe = reopened(folder, custom_pipeline=str(folder), trust_remote_code=True)
    latents = pipe(PROMPT, latents=noise(adapter), output_type="latent").images
    torch.testing.assert_close(
        latents, integrate(adapter, student, noise(adapter), PRE_SHIFT), atol=1e-4, rtol=1e-4
    )


@pytest.mark.usefixtures("registered")
def test_what_the_caller_gives_wins_over_the_defaults(tiny: Open, tmp_path: Path) -> None:
    adapter = tiny("sd3")
    export_student(adapter, adapter.network, tmp_path / "out", ExportConfig(sigmas=tuple(PRE_SHIFT)))
    pipe, x = reopened(tmp_path / "out"), noise(adapter)

    def run(*args: Any, **kwargs: Any) -> torch.Tensor:
        latents: torch.Tensor = pipe(*args, latents=x, output_type="latent", **kwargs).images
        return latents

    ladder = [1.0, 2 / 3, 1 / 3]
    expected = integrate(adapter, adapter.network, x, ladder)
    torch.testing.assert_close(run(PROMPT, num_inference_steps=3), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(run(PROMPT, sigmas=ladder), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(run(PROMPT, None, None, HEIGHT, WIDTH, 3), expected, atol=1e-4, rtol=1e-4)
    sizes = batches(pipe.transformer)
    run(PROMPT, guidance_scale=3.0)
    assert sizes == [2, 2, 2, 2]


def test_registering_reaches_every_way_to_a_pipeline(
    tiny: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    import diffusers
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    imported = diffusers.StableDiffusion3Pipeline
    folder = tmp_path / "out"
    export_student(tiny("sd3"), tiny("sd3").network, folder)
    made = imported.from_pretrained(folder)
    request.getfixturevalue("registered")

    class Mine(imported):  # type: ignore[misc, valid-type]
        pass

    auto = diffusers.AutoPipelineForText2Image
    ways = {
        "made before": made,
        "imported before": imported.from_pretrained(folder),
        "automatic": auto.from_pretrained(folder),
        "automatic, of a pipeline": auto.from_pipe(made),
        "subclass": Mine.from_pretrained(folder),
        "the folder's own": reopened(folder, custom_pipeline=str(folder), trust_remote_code=True),
    }
    for way, pipe in ways.items():
        sizes = batches(pipe.transformer)
        pipe(PROMPT, output_type="latent")
        assert sizes == [1] * 4, way


@pytest.mark.usefixtures("registered")
def test_a_pipeline_that_the_defaults_cannot_reach_warns(tiny: Open, tmp_path: Path) -> None:
    import diffusers

    export_student(tiny("sd3"), tiny("sd3").network, tmp_path / "out")
    pipe = reopened(tmp_path / "out")
    other = diffusers.StableDiffusion3Img2ImgPipeline(**pipe.components)
    call = {"image": torch.zeros(1, 3, HEIGHT, WIDTH), "output_type": "latent", "strength": 1.0}
    with pytest.warns(UserWarning, match="few-step student.*num_inference_steps=4"):
        other(PROMPT, height=HEIGHT, width=WIDTH, **call)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other(PROMPT, height=HEIGHT, width=WIDTH, num_inference_steps=4, guidance_scale=1.0, **call)
        pipe(PROMPT, output_type="latent")
        pipe(PROMPT, num_inference_steps=7, output_type="latent")
    assert not [w for w in caught if "few-step" in str(w.message)]


@pytest.mark.usefixtures("registered")
def test_registering_leaves_other_models_alone(folders: dict[str, Path]) -> None:
    import diffusers

    once = diffusers.StableDiffusion3Pipeline.__call__
    few_step.register()
    assert diffusers.StableDiffusion3Pipeline.__call__ is once
    pipe = reopened(folders["sd3"])
    sizes = batches(pipe.transformer)
    pipe(PROMPT, height=16, width=16, output_type="latent")
    assert sizes == [2] * 28, "the stock defaults: 28 steps, guided"


@pytest.mark.usefixtures("registered")
def test_the_defaults_survive_being_saved_again(tiny: Open, tmp_path: Path) -> None:
    adapter = tiny("sd3")
    export_student(adapter, adapter.network, tmp_path / "out")
    reopened(tmp_path / "out").save_pretrained(tmp_path / "again")
    assert (
        json.loads((tmp_path / "again/model_index.json").read_text())["_class_name"]
        == "StableDiffusion3Pipeline"
    )
    pipe = reopened(tmp_path / "again")
    sizes = batches(pipe.transformer)
    pipe(PROMPT, output_type="latent")
    assert sizes == [1] * 4


def test_the_export_is_stock_but_for_weights_scheduler_and_papers(
    tiny: Open, folders: dict[str, Path], tmp_path: Path
) -> None:
    before = tree(folders["qwen"])
    export_student(tiny("qwen"), tiny("qwen").network, tmp_path / "out", ExportConfig(precision="bf16"))
    assert tree(folders["qwen"]) == before, "the base was touched"
    after = tree(tmp_path / "out")
    changed = {"scheduler/scheduler_config.json", "transformer/diffusion_pytorch_model.safetensors"}
    assert after.keys() - before.keys() == {"README.md", "pipeline.py", "digests.sha256"}
    assert {n for n in before if before[n] != after.get(n)} == changed
    config = json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())
    assert config["shift_terminal"] is None
    assert config[few_step.RECORD]["sigmas"] == PRE_SHIFT
    weights = load_file(tmp_path / "out/transformer/diffusion_pytorch_model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}


def test_the_card_says_the_grid_before_and_after_the_shift(
    tiny: Open, folders: dict[str, Path], tmp_path: Path
) -> None:
    base = Path(shutil.copytree(folders["sd3"], tmp_path / "base"))
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: tiny\nlicense_link: LICENSE.md\n---\n# x\n"
    )
    (base / "LICENSE.md").write_text("be kind")
    settings = {"preset": "cdm", "note": "---\n```python\nx\n```", "path": tmp_path}
    got = export_student(tiny("sd3"), tiny("sd3").network, tmp_path / "out", base=base, settings=settings)
    assert got.sigmas == (1.0, 0.9, 0.75, 0.5, 0.0)  # shift 3
    card = (tmp_path / "out/README.md").read_text()
    assert "| 2 | 0.75 | 0.9 |\n| 3 | 0.5 | 0.75 |\n| 4 | 0.25 | 0.5 |" in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert "base_model" not in front, "the hub would look for a repository of that name"
    assert front["license_name"] == "tiny"
    assert front["library_name"] == "diffusers"
    assert str(tmp_path) not in card.split("## Training settings")[0], (
        "the card tells where the user's files are"
    )
    assert "preset: cdm" in card
    assert card.count("```") % 2 == 0
    assert (tmp_path / "out/LICENSE.md").read_text() == "be kind"


def test_a_hub_cache_is_copied_as_files_without_pickles_code_or_second_precisions(
    tiny: Open, folders: dict[str, Path], tmp_path: Path
) -> None:
    """A hub snapshot is links into a blob store, and carries more than a pipeline reads."""
    blobs, base = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    for number, (name, _) in enumerate(sorted(tree(folders["sd3"]).items())):
        shutil.copyfile(folders["sd3"] / name, blobs / str(number))
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).symlink_to(blobs / str(number))
        (blobs / str(number)).chmod(0o444)
    for extra in (
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/x.bin",
        "vae/x.py",
        "sd3_medium.safetensors",
    ):
        (base / extra).write_bytes(b"\0")
    export_student(tiny("sd3"), tiny("sd3").network, tmp_path / "out", base=base)
    out = tmp_path / "out"
    assert not any(p.is_symlink() for p in out.rglob("*"))
    assert tree(out).keys() - tree(folders["sd3"]).keys() == {"README.md", "pipeline.py", "digests.sha256"}
    (out / "vae/config.json").write_text("{}")  # not the cache's read-only mode


# -- LoRA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_lora_student_is_the_same_merged_loaded_and_live(tiny: Open, tmp_path: Path, name: str) -> None:
    adapter = tiny(name)
    network = adapted(adapter)
    got = export_student(adapter, network, tmp_path / "out")
    live = velocity(adapter, network)
    assert (live - velocity(adapter, adapter.network)).abs().max() > 0.05, "the LoRA does nothing here"
    merged = open_pipeline(tmp_path / "out", height=HEIGHT, width=WIDTH)
    torch.testing.assert_close(velocity(adapter, merged.network), live, atol=1e-4, rtol=1e-4)

    assert got.lora == tmp_path / "out" / LORA_FILE
    base = open_pipeline(adapter.folder, height=HEIGHT, width=WIDTH).pipeline
    if hasattr(base, "load_lora_weights"):
        base.load_lora_weights(tmp_path / "out", weight_name=LORA_FILE)
    else:  # LongCat's pipeline has no loader of its own
        base.transformer.load_lora_adapter(tmp_path / "out", weight_name=LORA_FILE)
    torch.testing.assert_close(velocity(adapter, base.transformer), live, atol=1e-4, rtol=1e-4)
    assert ("load_lora_weights" in (tmp_path / "out/README.md").read_text()) == (name != "longcat")


def test_lora_matrices_by_name_are_the_network(tiny: Open, tmp_path: Path) -> None:
    adapter = tiny("sd3")
    network = adapted(adapter, rank=2, alpha=6.0)
    named = {n.replace(".student.", "."): p for n, p in network.named_parameters() if ".student." in n}
    export_student(adapter, network, tmp_path / "a")
    export_student(adapter, named, tmp_path / "b", lora_scaling=3.0)
    for file in (LORA_FILE, "transformer/diffusion_pytorch_model.safetensors"):
        a, b = load_file(tmp_path / "a" / file), load_file(tmp_path / "b" / file)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_parameters_by_name_are_the_network_though_it_has_buffers(tiny: Open, tmp_path: Path) -> None:
    adapter = tiny("sd3")
    student = moved(adapter.network)
    assert dict(student.named_buffers()).keys() & student.state_dict().keys(), (
        "SD3 keeps its positions in a buffer"
    )
    export_student(adapter, student, tmp_path / "a")
    export_student(adapter, dict(student.named_parameters()), tmp_path / "b")
    file = "transformer/diffusion_pytorch_model.safetensors"
    assert tree(tmp_path / "a")[file] == tree(tmp_path / "b")[file]


def test_the_critics_lora_stays_out(tiny: Open, tmp_path: Path) -> None:
    adapter = tiny("sd3")
    network = adapted(adapter)
    export_student(adapter, network, tmp_path / "a")
    with torch.no_grad():
        for name, p in network.named_parameters():
            if ".critic." in name:
                p.zero_()
    export_student(adapter, network, tmp_path / "b")
    a, b = (load_file(tmp_path / x / LORA_FILE) for x in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert all(k.startswith("transformer.") for k in a)


def test_a_full_students_lora_is_its_best_low_rank_change(tiny: Open, tmp_path: Path) -> None:
    adapter = tiny("sd3")
    student = copy.deepcopy(adapter.network)
    linear = {n: m for n, m in student.named_modules() if isinstance(m, torch.nn.Linear)}
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for m in linear.values():
            m.weight.add_(torch.randn(m.weight.shape, generator=generator) * 0.1)
    exact = export_student(adapter, student, tmp_path / "exact", ExportConfig(lora=True, lora_rank=1000))
    assert exact.captured == pytest.approx(1, abs=1e-5)
    pipe = open_pipeline(adapter.folder, height=HEIGHT, width=WIDTH).pipeline
    pipe.load_lora_weights(tmp_path / "exact", weight_name=LORA_FILE)
    torch.testing.assert_close(
        velocity(adapter, pipe.transformer), velocity(adapter, student), atol=1e-4, rtol=1e-3
    )

    rough = export_student(adapter, student, tmp_path / "rough", ExportConfig(lora=True, lora_rank=2))
    spectra = [
        torch.linalg.svdvals((m.weight - adapter.network.get_submodule(n).weight).detach()).square()
        for n, m in linear.items()
    ]
    best = float(sum(s[:2].sum() for s in spectra) / sum(s.sum() for s in spectra))
    assert rough.captured == pytest.approx(best, rel=1e-4)
    assert f"{best:.1%}" in (tmp_path / "rough/README.md").read_text()


def test_the_randomised_svd_of_a_large_layer_finds_its_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(700, 4, generator=generator), torch.randn(4, 800, generator=generator)
    before = torch.random.get_rng_state()
    u, s, v = weights._svd(b @ a, 4)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.testing.assert_close((u * s) @ v, b @ a, atol=1e-3, rtol=1e-3)


# -- what is refused --------------------------------------------------------------------------------------------------


def without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: without(s, "proj_out.bias"), r"lacks 'proj_out.bias'"),
        (lambda s: s | {"extra.weight": torch.zeros(1)}, "has 'extra.weight'"),
        (lambda s: s | {"proj_out.bias": torch.zeros(3)}, r"shape \(3,\)"),
        (lambda s: s | {"proj_out.bias": torch.full_like(s["proj_out.bias"], torch.nan)}, "not finite"),
        (lambda s: {"proj_out.lora_A.weight": torch.zeros(2, 16)}, "no partner"),
        (lambda s: {f"nowhere.lora_{x}.weight": torch.zeros(2, 2) for x in "AB"}, "no layer"),
        (lambda s: {f"proj_out.lora_{x}.weight": torch.zeros(2, 2) for x in "AB"}, "LoRA of proj_out makes"),
        (lambda s: {}, "lacks"),
    ],
)
def test_weights_of_another_model(
    tiny: Open,
    tmp_path: Path,
    spoil: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    message: str,
) -> None:
    adapter = tiny("sd3")
    with pytest.raises(CheckpointError, match=message):
        export_student(adapter, spoil(dict(adapter.network.state_dict())), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_places_that_are_taken(tiny: Open, folders: dict[str, Path], tmp_path: Path) -> None:
    adapter = tiny("sd3")
    network = adapter.network
    for place in (adapter.folder, adapter.folder / "out", adapter.folder.parent):
        with pytest.raises(RunError, match="overlap"):
            export_student(adapter, network, place, ExportConfig(overwrite=True))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="exists"):
        export_student(adapter, network, tmp_path / "home")
    with pytest.raises(RunError, match="no earlier export"):
        export_student(adapter, network, tmp_path / "home", ExportConfig(overwrite=True))
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with pytest.raises(RunError, match="not a folder"):
        export_student(adapter, network, tmp_path / "link", ExportConfig(overwrite=True))
    assert (tmp_path / "home/thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    assert export_student(adapter, network, tmp_path / "empty").folder == tmp_path / "empty"


def test_a_component_outside_the_base_is_not_followed(
    tiny: Open, folders: dict[str, Path], tmp_path: Path
) -> None:
    base = Path(shutil.copytree(folders["sd3"], tmp_path / "base"))
    (tmp_path / "secret").mkdir()
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps(index | {"../secret": ["diffusers", "AutoencoderKL"]}))
    with pytest.raises(DataError, match="inside"):
        export_student(tiny("sd3"), tiny("sd3").network, tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()


def test_other_requests_that_make_no_sense(tiny: Open, folders: dict[str, Path], tmp_path: Path) -> None:
    adapter = tiny("sd3")
    for grid in ([], [0.9, 0.5], [1.0, 1.0], [1.0, 0.0], [1.0, 1.5]):
        with pytest.raises(ConfigError, match="σ"):
            export_student(adapter, adapter.network, tmp_path / "out", ExportConfig(sigmas=tuple(grid)))
    with pytest.raises(ConfigError, match="rank"):
        load_config(ExportConfig, base={"lora": True, "lora_rank": 0})
    with pytest.raises(ModelError, match="distilled from"):
        export_student(adapter, adapter.network, tmp_path / "out", base=folders["flux"])
    with pytest.raises(ModelError, match="no such model"):
        export_student(adapter, adapter.network, tmp_path / "out", base=tmp_path / "nowhere")
    small = SmallAdapter(SmallTransformer(SmallTransformerConfig()))
    with pytest.raises(ModelError, match="no diffusers pipeline"):
        export_student(small, small.network, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# -- all or nothing ---------------------------------------------------------------------------------------------------


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_as_safetensors_tells_it(*_: Any, **__: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


STAGES = ["_write_transformer", "_copy_component", "_write_scheduler", "model_card", "_flush"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", [full_disk, full_disk_as_safetensors_tells_it, interrupt])
def test_a_fault_at_any_stage_leaves_nothing_and_keeps_what_was_there(
    tiny: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, fault: Callable[..., None]
) -> None:
    adapter = tiny("sd3")
    export_student(adapter, moved(adapter.network), tmp_path / "earlier")
    before = tree(tmp_path)
    monkeypatch.setattr(files if stage == "_flush" else export, stage, fault)
    for place in ("fresh", "earlier"):
        with pytest.raises(KeyboardInterrupt if fault is interrupt else RunError) as caught:
            export_student(adapter, adapter.network, tmp_path / place, ExportConfig(overwrite=True))
        if fault is not interrupt:
            assert "No space left" in str(caught.value)
            assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["earlier"]


def test_an_earlier_export_comes_back_when_the_last_rename_fails(
    tiny: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tiny("sd3")
    export_student(adapter, moved(adapter.network), tmp_path / "out")
    before = tree(tmp_path)
    rename = Path.rename

    def fails_once(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    monkeypatch.setattr(files, "_swapped", lambda *_: False)  # as where the system cannot swap two folders
    with pytest.raises(RunError, match="Input/output"):
        export_student(adapter, adapter.network, tmp_path / "out", ExportConfig(overwrite=True))
    assert tree(tmp_path) == before


def test_a_folder_that_cannot_be_written(tiny: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        export_student(tiny("sd3"), tiny("sd3").network, tmp_path / "file/out")


def test_a_flipped_bit_in_an_exports_weights_is_refused(tiny: Open, tmp_path: Path) -> None:
    export_student(tiny("sd3"), tiny("sd3").network, tmp_path / "out")
    assert open_student(tmp_path / "out").step is None
    file = tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 64
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="its content is not what was written"):
        open_student(tmp_path / "out")


def test_an_earlier_export_is_replaced_whole(tiny: Open, tmp_path: Path) -> None:
    adapter = tiny("sd3")
    export_student(adapter, adapted(adapter), tmp_path / "out")
    export_student(adapter, adapter.network, tmp_path / "out", ExportConfig(overwrite=True))
    assert not (tmp_path / "out" / LORA_FILE).exists(), "a file of the earlier export is left"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_export_left_is_swept_by_the_next(tiny: Open, tmp_path: Path) -> None:
    dead = 2**22 + 1  # beyond the largest process number
    (tmp_path / f".out.partial-{dead}").mkdir()
    (tmp_path / f".out.partial-{os.getppid()}").mkdir()  # alive: another export at work
    export_student(tiny("sd3"), tiny("sd3").network, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".out.partial-{os.getppid()}", "out"]


def test_the_tiny_pipelines_are_the_same_every_time(folders: dict[str, Path], tmp_path: Path) -> None:
    again = tree(build_sd3(tmp_path / "sd3"))
    assert (
        again["transformer/diffusion_pytorch_model.safetensors"]
        == (tree(folders["sd3"])["transformer/diffusion_pytorch_model.safetensors"])
    )
