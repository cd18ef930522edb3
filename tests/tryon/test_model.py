"""The transformer equals stock Wan-VACE where it must, and differs where actions and hands say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import WanVACETransformer3DModel  # noqa: E402

from noria.core.errors import CheckpointError, ConfigError  # noqa: E402
from noria.tryon.model.transformer import ITryOnTransformer3DModel  # noqa: E402

TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 3,
    "vace_layers": [0, 2],
}
FRAMES = 4


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stock")
    WanVACETransformer3DModel(**TINY).save_pretrained(folder)
    return folder


def load(folder: Path, **settings: Any) -> ITryOnTransformer3DModel:
    return ITryOnTransformer3DModel.from_pretrained(folder, guider_dim=12, guider_layers=1, **settings)


def inputs(batch: int = 2) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(batch, 16, FRAMES, 4, 4, generator=draw),
        "timestep": torch.full((batch,), 500),
        "encoder_hidden_states": torch.randn(batch, 8, 16, generator=draw),
        "control_hidden_states": torch.randn(batch, 96, FRAMES, 4, 4, generator=draw),
    }


def actions(batch: int = 2) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(2)
    return {
        "action_hidden_states": torch.randn(batch, 6, 16, generator=draw),
        "action_positions": torch.tensor([[1, 1, 1, 2, 2, 2]]).repeat(batch, 1),
        "query_positions": torch.tensor([[0, 1, 1, 2]]).repeat(batch, 1),
    }


def output(model: Any, **given: Any) -> Any:
    with torch.no_grad():
        return model.eval()(**given).sample


def opened(model: Any) -> Any:
    """Gates away from zero, as after training."""
    for name, value in model.named_parameters():
        if name.endswith("action_gate"):
            torch.nn.init.ones_(value)
    return model


@pytest.mark.parametrize("context", ["decoupled", "joint"])
def test_a_stock_checkpoint_lacks_only_the_new_keys_and_gives_the_same_bits(
    stock: Path, context: str
) -> None:
    model, info = load(stock, arope_context=context, output_loading_info=True)
    new = ("guider.", ".action_gate", ".action_sink")
    assert info["missing_keys"]
    assert all(any(part in key for part in new) for key in info["missing_keys"])
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    expected = output(WanVACETransformer3DModel.from_pretrained(stock), **inputs())
    assert torch.equal(output(model, **inputs()), expected)


def test_closed_gates_and_an_untrained_guider_change_no_bit(stock: Path) -> None:
    model = load(stock)
    hands = model.encode_hands(torch.randn(2, 17, FRAMES - 1, 4, 4), references=1)
    assert torch.equal(output(model, **inputs(), **actions(), hand_tokens=hands), output(model, **inputs()))


@pytest.mark.parametrize("context", ["decoupled", "joint"])
def test_a_bag_of_captions_cannot_tell_their_order(stock: Path, context: str) -> None:
    swapped = actions()
    swapped["action_hidden_states"] = swapped["action_hidden_states"].flip(1)
    for mode, same in (("none", True), ("rope", False), ("mask", False), ("relay", False)):
        model = opened(load(stock, arope_context=context, arope_mode=mode))
        change = (output(model, **inputs(), **actions()) - output(model, **inputs(), **swapped)).abs().max()
        assert (change < 1e-5) == same, mode


@pytest.mark.parametrize("context", ["decoupled", "joint"])
def test_only_differences_of_positions_matter_among_actions(stock: Path, context: str) -> None:
    model, moved = opened(load(stock, arope_context=context)), actions()
    moved["action_positions"] = moved["action_positions"] + 7
    moved["query_positions"] = moved["query_positions"] + 7
    same = torch.allclose(
        output(model, **inputs(), **moved), output(model, **inputs(), **actions()), atol=1e-5
    )
    # the sink and, in one attention, the global caption stay at 0; the sink's key is zero and has no angle
    assert same == (context == "decoupled")


def test_a_batch_equals_its_samples_with_tables_of_their_own(stock: Path) -> None:
    model, given, timed = opened(load(stock)), inputs(), actions()
    timed["query_positions"] = torch.tensor([[0, 1, 1, 2], [0, 0, 1, 0]])
    timed["action_mask"] = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    whole = output(model, **given, **timed)
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in {**given, **timed}.items()}
        if row == 1:
            for name in ("action_hidden_states", "action_positions", "action_mask"):
                one[name] = one[name][:, :3]
        assert torch.allclose(output(model, **one), whole[row : row + 1], atol=1e-5)


def test_a_sample_without_actions_in_a_batch_is_the_base_model(stock: Path) -> None:
    model, timed = opened(load(stock)), actions()
    timed["action_mask"] = torch.tensor([[True] * 6, [False] * 6])
    result, base = output(model, **inputs(), **timed), output(model, **inputs())
    assert torch.allclose(result[1], base[1], atol=1e-5)
    assert not torch.allclose(result[0], base[0], atol=1e-3)


@pytest.mark.parametrize("mode", ["rope", "relay"])
def test_padding_that_is_folded_into_one_token_weighs_what_it_did(stock: Path, mode: str) -> None:
    model, given = opened(load(stock, arope_context="joint", arope_mode=mode)), inputs()
    given["encoder_hidden_states"] = torch.nn.functional.pad(given["encoder_hidden_states"], (0, 0, 0, 24))
    given["encoder_hidden_states"][1, 5:] = 0  # captions of a batch have lengths of their own
    folded = output(model, **given, **actions())
    seen: list[int] = []
    model.blocks[0].attn2.to_k.register_forward_hook(lambda module, states, keys: seen.append(keys.shape[1]))
    output(model, **given, **actions())
    model.set_attention_backend("native")  # a named backend reads every token
    whole = output(model, **given, **actions())
    assert seen == [9, 6, 32, 6]
    assert torch.allclose(folded, whole, atol=1e-5)
    assert not torch.equal(folded, whole)
    given["encoder_hidden_states"] = given["encoder_hidden_states"][:, :9]  # one padding token, once
    assert not torch.allclose(output(model, **given, **actions()), whole, atol=1e-5)


def test_checkpointing_gives_the_same_gradients(stock: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(3)  # of the new weights
        model = opened(load(stock)).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        hands = model.encode_hands(torch.ones(2, 17, FRAMES, 4, 4))
        model(**inputs(), **actions(), hand_tokens=hands).sample.square().mean().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    plain, recomputed = gradients
    assert plain["blocks.0.attn2.action_gate"].abs() > 0
    assert plain["guider.project.0.weight"].abs().max() > 0
    for name, value in plain.items():
        assert (value is None) == (recomputed[name] is None), name
        assert value is None or torch.allclose(value, recomputed[name], atol=1e-6), name


def test_saving_and_loading_keeps_every_bit_and_setting(stock: Path, tmp_path: Path) -> None:
    model = opened(load(stock, arope_scale=2.0))
    model.save_pretrained(tmp_path)
    again = ITryOnTransformer3DModel.from_pretrained(tmp_path)
    assert again.config.arope_scale == 2.0
    assert torch.equal(output(again, **inputs(), **actions()), output(model, **inputs(), **actions()))


def test_peft_finds_the_attention_layers_by_diffusers_names(stock: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = load(stock)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    model.save_lora_adapter(tmp_path)
    from safetensors.torch import load_file

    keys = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert len(keys) == 2 * 4 * 2 * (3 + 2)
    assert "blocks.0.attn2.to_q.lora_A.weight" in keys


@pytest.mark.parametrize(
    "wrong",
    [{"arope_mode": "other"}, {"guider_inject": [3]}, {"guider_inject": [0, 0]}, {"added_kv_proj_dim": 8}],
    ids=["mode", "layer", "twice", "image"],
)
def test_settings_that_the_model_does_not_have_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ITryOnTransformer3DModel(**TINY, **wrong)


def test_a_checkpoint_without_a_base_weight_is_refused(stock: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((stock / "config.json").read_bytes())
    weights = load_file(stock / "diffusion_pytorch_model.safetensors")
    del weights["blocks.1.attn1.to_q.weight"]
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn1\.to_q\.weight"):
        load(tmp_path)


def test_half_precision_equals_stock_bit_by_bit_also_with_closed_gates(stock: Path) -> None:
    model = load(stock, torch_dtype=torch.bfloat16)
    assert model.guider.project[0].weight.dtype == torch.bfloat16
    given = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs().items()
    }
    timed = actions()
    timed["action_hidden_states"] = timed["action_hidden_states"].bfloat16()
    hands = model.encode_hands(torch.ones(2, 17, FRAMES, 4, 4, dtype=torch.bfloat16))
    base = output(WanVACETransformer3DModel.from_pretrained(stock, torch_dtype=torch.bfloat16), **given)
    assert torch.equal(output(model, **given), base)
    assert torch.equal(output(model, **given, **timed, hand_tokens=hands), base)


@pytest.mark.parametrize(
    ("sizes", "billions"),
    [
        (
            {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "vace_layers": [*range(0, 30, 2)]},
            2.154,
        ),
        (
            {
                "num_attention_heads": 40,
                "ffn_dim": 13824,
                "num_layers": 40,
                "vace_layers": [*range(0, 40, 5)],
            },
            17.338,
        ),
    ],
    ids=["Wan2.1-VACE-1.3B", "Wan2.1-VACE-14B"],
)
def test_the_published_sizes_have_their_weights_and_only_the_new_keys_are_ours(
    sizes: dict[str, Any], billions: float
) -> None:
    with torch.device("meta"):
        stock = WanVACETransformer3DModel(**sizes, vace_in_channels=96).state_dict()
        ours = ITryOnTransformer3DModel(**sizes).state_dict()
    assert sum(value.numel() for value in stock.values()) / 1e9 == pytest.approx(billions, abs=0.001)
    assert all(ours[name].shape == value.shape for name, value in stock.items())
    new = {name: value for name, value in ours.items() if name not in stock}
    assert all(any(part in name for part in ("guider.", ".action_gate", ".action_sink")) for name in new)
    assert sum(value.numel() for value in new.values()) < 30e6  # a light branch
    for name in (
        "blocks.39.attn2.to_q.weight",
        "vace_blocks.7.proj_out.weight",
        "vace_patch_embedding.weight",
    ):
        assert name in stock or len(sizes["vace_layers"]) == 15  # as the published checkpoint names them
