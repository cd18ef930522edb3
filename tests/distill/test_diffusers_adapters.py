from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from noria.core.errors import ConfigError, ModelError
from noria.core.models.flow import SigmaContract, euler
from noria.distill.adapters import FlowAdapter, concat, select
from noria.distill.integrations.diffusers import PipelineAdapter, open_pipeline
from noria.distill.integrations.diffusers.pipeline_adapter import EmbeddingCache
from noria.distill.students.export import export_student
from tests.distill.tiny_pipelines import BUILDERS, build_flux

PRE_SHIFT = [1.0, 0.75, 0.5, 0.25]
PROMPTS = ["a photo of a red cat", "two birds"]
FAMILIES = [*BUILDERS, "schnell"]

Open = Callable[..., PipelineAdapter]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    built = {name: build(root / name) for name, build in BUILDERS.items()}
    return built | {"schnell": build_flux(root / "schnell", guidance_embeds=False)}


@pytest.fixture(scope="module")
def tiny(folders: dict[str, Path]) -> Open:
    """Adapters at 32 × 48 pixels, opened once for the module."""
    opened: dict[str, PipelineAdapter] = {}

    def get(name: str) -> PipelineAdapter:
        if name not in opened:
            opened[name] = open_pipeline(folders[name], height=32, width=48)
        return opened[name]

    return get


def noise(adapter: PipelineAdapter, batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, *adapter.latent_shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def integrate(
    adapter: PipelineAdapter, x: torch.Tensor, prompts: list[str], guidance: float = 1.0
) -> torch.Tensor:
    condition, null = adapter.encode(prompts), adapter.null(len(prompts))

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        v = adapter.velocity(adapter.network, x, sigma, condition)
        if guidance == 1:
            return v
        u = adapter.velocity(adapter.network, x, sigma, null)
        return u + guidance * (v - u)

    return euler(velocity, x, adapter.contract.grid(PRE_SHIFT))


def sample(adapter: PipelineAdapter, x: torch.Tensor, prompts: list[str], **call: Any) -> torch.Tensor:
    settings = {**adapter.call, "latents": x, "sigmas": PRE_SHIFT, "output_type": "latent"} | call
    latents: torch.Tensor = adapter.pipeline(prompts, **settings).images
    return latents


# -- the one fact that everything rests on ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_euler_through_the_adapter_is_the_pipeline_itself(tiny: Open, name: str) -> None:
    adapter = tiny(name)
    x = noise(adapter, 2)
    ours, theirs = integrate(adapter, x, PROMPTS), sample(adapter, x, PROMPTS)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("name", "call"), [("sd3", {}), ("longcat", {"enable_cfg_renorm": False})])
def test_guidance_by_hand_is_the_pipelines_guidance(tiny: Open, name: str, call: dict[str, Any]) -> None:
    adapter = tiny(name)
    x = noise(adapter, 1)
    theirs = sample(adapter, x, PROMPTS[:1], guidance_scale=4.5, **call)
    torch.testing.assert_close(integrate(adapter, x, PROMPTS[:1], 4.5), theirs, atol=1e-4, rtol=1e-4)
    assert (theirs - integrate(adapter, x, PROMPTS[:1])).abs().max() > 0.01, "the prompt does nothing here"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_network_is_told_the_true_sigma(tiny: Open, name: str) -> None:
    """The time embedding sees σ · 1000, whoever multiplies it."""
    adapter = tiny(name)
    seen: list[torch.Tensor] = []
    (embedding,) = [m for m in adapter.network.modules() if type(m).__name__ == "Timesteps"][:1]
    own_factor = getattr(embedding, "scale", 1)  # Qwen-Image multiplies inside
    hook = embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0].float() * own_factor))
    sigma = torch.tensor([0.9, 0.3])
    with torch.no_grad():
        adapter.velocity(adapter.network, noise(adapter, 2), sigma, adapter.encode(PROMPTS))
    hook.remove()
    torch.testing.assert_close(seen[0], 1000 * sigma)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_sample_has_its_own_sigma(tiny: Open, name: str) -> None:
    adapter = tiny(name)
    x, sigma, condition = noise(adapter, 2), torch.tensor([0.97, 0.2]), adapter.encode(PROMPTS)
    with torch.no_grad():
        together = adapter.velocity(adapter.network, x, sigma, condition)
        for i in range(2):
            row = slice(i, i + 1)
            alone = adapter.velocity(adapter.network, x[row], sigma[row], select(condition, row))
            torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-4)
        swapped = adapter.velocity(adapter.network, x, sigma.flip(0), condition)
    assert (together - swapped).abs().max() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_decoding_is_the_pipelines_decoding(tiny: Open, name: str) -> None:
    adapter = tiny(name)
    x = noise(adapter, 2)
    images = adapter.decode(sample(adapter, x, PROMPTS))
    assert images.shape == (2, 3, 32, 48)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    torch.testing.assert_close(images, sample(adapter, x, PROMPTS, output_type="pt"), atol=1e-5, rtol=1e-5)


# -- conditioning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_the_null_condition_is_the_empty_prompt_in_any_batch_size(tiny: Open, name: str) -> None:
    adapter = tiny(name)
    for batch in (1, 5):
        for key, value in adapter.encode([""] * batch).items():
            assert torch.equal(adapter.null(batch)[key], value)


@pytest.mark.parametrize("name", FAMILIES)
def test_conditions_of_different_prompts_stack(tiny: Open, name: str) -> None:
    adapter = tiny(name)
    stacked = concat([adapter.encode(["a"]), adapter.encode(["a much longer prompt " * 5]), adapter.null(2)])
    assert all(len(value) == 4 for value in stacked.values())
    assert not torch.equal(stacked["embeds"][0], stacked["embeds"][1])


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_prompt_is_encoded_once_and_alike_in_any_company(folders: dict[str, Path], name: str) -> None:
    first, second = (open_pipeline(folders[name], height=32, width=32) for _ in range(2))
    calls: list[int] = []
    first.pipeline.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    both = first.encode(["a cat", "two birds by the river", "a cat"])
    first.encode(["two birds by the river"])
    assert len(calls) == 2
    alone = second.encode(["two birds by the river"])
    for key, value in alone.items():
        assert torch.equal(value[0], both[key][1]), (
            "an embedding depends on its batch; a resumed run would differ"
        )


def test_padding_and_company_do_not_reach_qwens_image(tiny: Open) -> None:
    adapter = tiny("qwen")
    x, sigma = noise(adapter, 2), torch.tensor([0.8, 0.8])
    condition = adapter.encode(["a", "a prompt that is a good deal longer than the other"])
    with torch.no_grad():
        together = adapter.velocity(adapter.network, x, sigma, condition)
        alone = adapter.velocity(adapter.network, x[:1], sigma[:1], select(condition, slice(0, 1)))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)


def test_the_cache_forgets_the_least_recently_used() -> None:
    row = {"embeds": torch.zeros(1, 256)}  # 1 KiB
    cache = EmbeddingCache(max_bytes=3 * 1024)
    for prompt in "abc":
        cache.put(prompt, row)
    assert cache.get("a") is not None
    cache.put("d", row)
    assert cache.get("b") is None
    assert all(cache.get(p) is not None for p in "acd")
    assert cache.bytes == 3 * 1024
    cache.put("huge", {"embeds": torch.zeros(1, 4096)})
    assert len(cache) == 1
    assert cache.get("huge") is not None


# -- the contract -----------------------------------------------------------------------------------------------------


def test_the_shift_is_the_schedulers_at_this_image_size(tiny: Open, folders: dict[str, Path]) -> None:
    assert tiny("sd3").contract.shift == 3
    assert tiny("schnell").contract.shift == 1
    small, large = tiny("flux"), open_pipeline(folders["flux"], height=64, width=64)
    assert small.mu is not None
    assert large.mu is not None
    assert (small.latent_shape[0], large.latent_shape[0]) == (6, 16)
    assert large.mu == pytest.approx(1.15)  # max_image_seq_len is 16 in the tiny scheduler
    assert large.contract.shift == pytest.approx(torch.e**1.15)
    assert small.contract.shift < large.contract.shift


def test_a_terminal_stretch_would_break_the_contract_and_is_dropped(
    tiny: Open, folders: dict[str, Path]
) -> None:
    import diffusers

    adapter = tiny("qwen")
    stretched = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
        folders["qwen"], subfolder="scheduler"
    )
    assert stretched.config.shift_terminal == 0.02
    stretched.set_timesteps(sigmas=PRE_SHIFT, mu=adapter.mu)
    assert stretched.sigmas[3] == pytest.approx(0.02, abs=1e-4), "the last of four steps is nearly nothing"
    with pytest.raises(ConfigError, match="shifts twice"):
        adapter.contract.check(stretched, mu=adapter.mu)
    assert adapter.scheduler.config.shift_terminal is None
    assert any("shift_terminal" in note for note in adapter.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_karras_sigmas": True}, "use_karras_sigmas"),
        ({"invert_sigmas": True}, "invert_sigmas"),
        ({"stochastic_sampling": True}, "stochastic"),
    ],
)
def test_schedulers_that_move_the_grid_are_refused(
    folders: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(folders["sd3"], tmp_path / "sd3"))
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        open_pipeline(folder, height=32, width=32)


def test_a_contract_of_another_shift_does_not_pass(tiny: Open) -> None:
    with pytest.raises(ConfigError):
        SigmaContract(1.0).check(tiny("sd3").scheduler)


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_the_adapter_is_what_the_trainer_asks_for(tiny: Open, name: str) -> None:
    adapter = tiny(name)
    assert isinstance(adapter, FlowAdapter)
    assert not any(p.requires_grad for p in adapter.network.parameters())
    assert not adapter.network.training
    with pytest.raises(ConfigError, match="anchor"):
        adapter.velocity(
            adapter.network, noise(adapter, 1), torch.ones(1), adapter.null(1), source_sigma=torch.ones(1)
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_targets_name_blocks_and_never_the_output_layer(folders: dict[str, Path], name: str) -> None:
    adapter = open_pipeline(folders[name], height=32, width=32, lora_feed_forward=True)
    modules = [n for n, m in adapter.network.named_modules() if isinstance(m, torch.nn.Linear)]
    for target in adapter.lora_targets:
        assert any(n.endswith("." + target) for n in modules), target
    hit = [n for n in modules if any(n == t or n.endswith("." + t) for t in adapter.lora_targets)]
    assert all("transformer_blocks" in n for n in hit)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_the_weights_and_the_latents(folders: dict[str, Path], name: str) -> None:
    adapter = open_pipeline(folders[name], height=32, width=32)
    student = adapter.network.requires_grad_(True)
    x = noise(adapter, 2).requires_grad_(True)
    adapter.velocity(student, x, torch.tensor([0.9, 0.4]), adapter.encode(PROMPTS)).square().mean().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    touched = sum(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in student.parameters())
    assert touched > 0.8 * len(list(student.parameters()))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bfloat16_network_is_called_as_the_pipeline_calls_it(folders: dict[str, Path], name: str) -> None:
    """To the bit: bfloat16 keeps three digits of σ · 1000, so it has to be rounded where the pipeline rounds it."""
    adapter = open_pipeline(folders[name], height=32, width=32, dtype=torch.bfloat16)
    x = noise(adapter, 2).bfloat16()
    answers: list[torch.Tensor] = []
    hook = adapter.network.register_forward_hook(lambda _, __, out: answers.append(out[0]))
    sample(adapter, x, PROMPTS, sigmas=[0.83])
    hook.remove()
    sigma = adapter.contract.grid([0.83])[:1].expand(2)
    with torch.no_grad():
        ours = adapter.velocity(adapter.network, x.float(), sigma, adapter.encode(PROMPTS))
    assert ours.dtype == torch.float32
    assert answers[0].dtype == torch.bfloat16
    tolerance = (
        {"atol": 0.0, "rtol": 0.0} if name != "qwen" else {"atol": 0.05, "rtol": 0.05}
    )  # its text is one batch
    torch.testing.assert_close(ours, answers[0].float(), **tolerance)


def test_embedded_guidance_is_an_input_not_a_second_call(folders: dict[str, Path]) -> None:
    three, five = (open_pipeline(folders["flux"], height=32, width=32, guidance=g) for g in (3.5, 5.0))
    x, sigma = noise(three, 1), torch.tensor([0.9])
    with torch.no_grad():
        a = three.velocity(three.network, x, sigma, three.encode(PROMPTS[:1]))
        b = five.velocity(five.network, x, sigma, five.encode(PROMPTS[:1]))
    assert (a - b).abs().max() > 1e-3
    assert five.call["guidance_scale"] == 5.0
    torch.testing.assert_close(
        integrate(five, x, PROMPTS[:1]), sample(five, x, PROMPTS[:1]), atol=1e-4, rtol=1e-5
    )


# -- what does not open -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["/nowhere/at/all", "./nowhere", "a/b/c", "nowhere"])
def test_a_path_that_is_not_there(model: str) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        open_pipeline(model)


def test_a_hub_id_outside_the_cache_stays_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(ModelError, match="local cache") as caught:
        open_pipeline("nobody/nothing-here")
    assert "\n" not in str(caught.value)


def spoil_class(folder: Path, name: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: spoil_class(f, "StableDiffusionXLPipeline"),
            "supported: StableDiffusion3Pipeline, LongCatImage",
        ),
        (lambda f: spoil_class(f, ["pipeline", "Mine"]), "own code"),
        (lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
        (lambda f: (f / "model_index.json").write_text("{"), "JSON"),
        (lambda f: (f / "model_index.json").write_text("[]"), "supported"),
        (lambda f: (f / "transformer/diffusion_pytorch_model.safetensors").unlink(), "does not open"),
        (
            lambda f: (f / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 64),
            "does not open",
        ),
        (lambda f: shutil.rmtree(f / "vae"), "the component 'vae' has no folder"),
    ],
)
def test_a_broken_folder_is_one_line(
    folders: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    folder = Path(shutil.copytree(folders["sd3"], tmp_path / "sd3"))
    spoil(folder)
    with pytest.raises(ModelError, match=message) as caught:
        open_pipeline(folder, height=32, width=32)
    assert "\n" not in str(caught.value)


def test_sd3_without_its_third_text_encoder(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its embeddings are zeros, in training as in the pipeline's own call, and an export has none either."""
    import diffusers

    whole = diffusers.StableDiffusion3Pipeline.from_pretrained(
        folders["sd3"], text_encoder_3=None, tokenizer_3=None
    )
    whole.save_pretrained(tmp_path / "sd3")
    adapter = open_pipeline(tmp_path / "sd3", height=32, width=32)
    condition = adapter.encode(PROMPTS[:1])
    assert not condition["embeds"][:, 77:].any()
    assert condition["embeds"][:, :77].any()
    assert any("no text_encoder_3" in note for note in adapter.notes)
    x = noise(adapter, 1)
    torch.testing.assert_close(
        sample(adapter, x, PROMPTS[:1], guidance_scale=1.0),
        integrate(adapter, x, PROMPTS[:1]),
        atol=1e-4,
        rtol=1e-4,
    )
    out = export_student(adapter, adapter.network, tmp_path / "out")
    assert open_pipeline(out.folder).encode(PROMPTS[:1])["embeds"].equal(condition["embeds"])
    assert "no text_encoder_3" in (out.folder / "README.md").read_text()


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("how", ["null", "no folder"])
def test_a_text_encoder_that_is_needed_and_not_there(
    folders: dict[str, Path], tmp_path: Path, family: str, how: str
) -> None:
    shutil.copytree(folders[family], tmp_path / "copy")
    if how == "null":
        spoil_index(tmp_path / "copy", text_encoder=[None, None])
    else:
        shutil.rmtree(tmp_path / "copy/text_encoder")
    with pytest.raises(ModelError, match="text_encoder"):
        open_pipeline(tmp_path / "copy")


def test_an_encoder_that_could_be_absent_but_is_named_says_how(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["sd3"], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/text_encoder_3")
    with pytest.raises(ModelError, match=r"text_encoder_3.*no folder.*\[null, null\]"):
        open_pipeline(tmp_path / "copy")


def spoil_index(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_variant_is_read_and_exported_under_plain_names(folders: dict[str, Path], tmp_path: Path) -> None:
    import diffusers

    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(folders["sd3"])
    pipe.save_pretrained(tmp_path / "half", variant="fp16", max_shard_size="9KB")
    with pytest.raises(ModelError, match="--variant fp16"):
        open_pipeline(tmp_path / "half")
    with pytest.raises(ModelError, match="no weights of the variant 'bf16'; there are: fp16"):
        open_pipeline(tmp_path / "half", variant="bf16")
    with pytest.raises(ModelError, match="no weights of the variant 'fp16'; leave --variant out"):
        open_pipeline(folders["sd3"], variant="fp16")
    adapter = open_pipeline(tmp_path / "half", variant="fp16")
    plain = open_pipeline(folders["sd3"])
    for name, value in plain.network.state_dict().items():
        assert adapter.network.state_dict()[name].equal(value)
    shards = list((tmp_path / "half/text_encoder").glob("model*00001-of*"))
    assert shards, "the variant's weights are in several files"
    out = export_student(adapter, adapter.network, tmp_path / "out")
    assert not list(out.folder.rglob("*fp16*"))
    again = diffusers.DiffusionPipeline.from_pretrained(out.folder)
    for name, value in plain.pipeline.text_encoder.state_dict().items():
        assert again.text_encoder.state_dict()[name].equal(value)


def test_of_two_sets_of_weights_the_named_one_is_read_and_copied(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["sd3"], tmp_path / "both")
    for path in [*(tmp_path / "both").glob("*/*.safetensors")]:
        half = {name: value * 0.5 for name, value in load_file(path).items()}
        save_file(
            half, path.with_name(path.name.replace(".safetensors", ".half.safetensors")), {"format": "pt"}
        )
    whole, half = open_pipeline(tmp_path / "both"), open_pipeline(tmp_path / "both", variant="half")
    name = next(iter(whole.network.state_dict()))
    assert half.network.state_dict()[name].equal(whole.network.state_dict()[name] * 0.5)
    for adapter in (whole, half):
        out = export_student(adapter, adapter.network, tmp_path / f"out-{adapter.variant}")
        copied = load_file(out.folder / "text_encoder/model.safetensors")
        read = adapter.pipeline.text_encoder.state_dict()
        assert all(value.equal(read[name]) for name, value in copied.items())
        assert not list(out.folder.rglob("*half*"))


def test_pickled_weights_are_not_read(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sd3"], tmp_path / "sd3"))
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    from safetensors.torch import load_file

    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError, match="safetensors"):
        open_pipeline(folder, height=32, width=32)


def test_code_beside_a_component_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sd3"], tmp_path / "sd3"))
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transformer": ["mine", "Mine"]}))
    (folder / "transformer/mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(ModelError):
        open_pipeline(folder, height=32, width=32)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [(30, 32), (32, 0), (32, 40)])
def test_a_size_that_no_token_fits(folders: dict[str, Path], size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="multiple of 16"):
        open_pipeline(folders["flux"], height=size[0] or 8, width=size[1] or 8)
