"""A planner that is a vision-language model: what it reads, what it writes, and with which probabilities."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from noria.core.errors import CheckError, CheckpointError, ModelError  # noqa: E402
from noria.editing.planner.checks import check_frozen, check_sees, editor_digest  # noqa: E402
from noria.editing.planner.loading import open_policy, save_policy  # noqa: E402
from noria.editing.planner.policy import Policy, Request  # noqa: E402
from noria.editing.planner.settings import GrpoSettings  # noqa: E402
from noria.editing.planner.small import SmallPlannerConfig, new_planner  # noqa: E402
from noria.editing.planner.weights import merged, prepare_weights  # noqa: E402

WORDS = [
    "Request:",
    "heat",
    "turn",
    "ice",
    "at",
    "a1",
    "b2",
    "into",
    "water",
    "a",
    "plan",
    "what",
    "is",
    "here",
]


def small(folder: Path) -> Path:
    return new_planner(
        folder, WORDS, SmallPlannerConfig(width=32, layers=2, vision_width=32, vision_layers=1)
    )


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return open_policy(small(tmp_path_factory.mktemp("planner") / "small"))


def requests() -> list[Request]:
    pictures = [
        Image.linear_gradient("L").resize((96, 96)).convert("RGB"),
        Image.new("RGB", (96, 96), (200, 30, 60)),
    ]
    return [Request((pictures[0],), "heat"), Request((pictures[1],), "turn ice into water at a1")]


def test_log_probabilities_of_a_draw_are_those_of_the_training_path(policy: Policy) -> None:
    """Prompts of different lengths are padded; that must change nothing."""
    prompts = policy.encode(requests())
    drawn = policy.sample(prompts, each=3, longest=12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        again, entropy = policy.logprobs(prompts.repeated(3), drawn.ids, drawn.mask)
    assert ((again - drawn.logprobs) * drawn.mask).abs().max() < 1e-4
    assert torch.isfinite(entropy).all()


def test_padding_changes_no_probability(policy: Policy) -> None:
    both = requests()
    ids, mask = policy.target(["turn ice at a1 into water"] * 2)
    with torch.no_grad():
        together, _ = policy.logprobs(policy.encode(both), ids, mask)
        alone = torch.cat([policy.logprobs(policy.encode([one]), ids[:1], mask[:1])[0] for one in both])
    assert (together - alone).abs().max() < 1e-4


def test_a_policy_never_writes_a_token_of_a_picture(policy: Policy) -> None:
    drawn = policy.sample(
        policy.encode(requests()),
        each=40,
        longest=30,
        generator=torch.Generator().manual_seed(2),
        temperature=2.0,
    )
    assert not torch.isin(drawn.ids, torch.tensor(policy.never)).any()


def test_the_same_generator_draws_the_same_and_nothing_follows_the_end(policy: Policy) -> None:
    prompts = policy.encode(requests())
    one, two = (
        policy.sample(prompts, each=8, longest=20, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one.ids, two.ids)
    ended = torch.isin(one.ids, torch.tensor(policy.ends)) & one.mask.bool()
    after = ended.long().cumsum(1) - ended.long()
    assert not (one.mask.bool() & (after > 0)).any()


def test_a_policy_that_sees_passes_and_a_blind_one_is_found(policy: Policy, tmp_path: Path) -> None:
    assert check_sees(policy, requests()[0]) > 1e-3
    blind = open_policy(small(tmp_path / "blind"))
    with torch.no_grad():
        for parameter in blind.model.model.visual.merger.parameters():
            parameter.zero_()
        for module in blind.model.model.visual.deepstack_merger_list:
            for parameter in module.parameters():
                parameter.zero_()
    with pytest.raises(ModelError, match="does not see"):
        check_sees(blind, requests()[0])


def test_a_template_without_a_place_for_the_picture_is_refused(tmp_path: Path) -> None:
    deaf = open_policy(small(tmp_path / "deaf"))
    deaf.tokenizer.chat_template = "{% for m in messages %}<|user|> heat {% endfor %}"
    with pytest.raises(ModelError, match="0 image tokens in the prompt of 1 pictures"):
        deaf.encode(requests())


def test_a_saved_policy_is_the_same_and_a_flipped_bit_is_found(policy: Policy, tmp_path: Path) -> None:
    folder = save_policy(policy, tmp_path / "copy")
    copy = open_policy(folder)
    ids, mask = policy.target(["turn ice at a1 into water"] * 2)
    with torch.no_grad():
        ours, theirs = (p.logprobs(p.encode(requests()), ids, mask)[0] for p in (policy, copy))
    assert torch.equal(ours, theirs)
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(CheckpointError):
        open_policy(folder)


def test_models_of_other_families_are_refused(tmp_path: Path) -> None:
    transformers.LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="llama"):
        open_policy(tmp_path)


def qwen_2_5(folder: Path, small_folder: Path) -> Path:
    """A tiny random Qwen2.5-VL with the tokenizer of the small planner."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_folder)
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    ids = {n: tokenizer.convert_tokens_to_ids(f"<|{n}|>") for n in names}
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None,
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 12,
            "temporal_patch_size": 1, "spatial_merge_size": 2, "out_hidden_size": 32, "window_size": 48,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"], vision_end_token_id=ids["vision_end"],
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.Qwen2VLImageProcessorPil.from_pretrained(small_folder).save_pretrained(folder)
    return folder


def test_qwen_2_5_vl_is_read_and_drawn_alike(tmp_path: Path) -> None:
    other = open_policy(qwen_2_5(tmp_path / "qwen", small(tmp_path / "small")))
    prompts = other.encode(requests())
    drawn = other.sample(prompts, each=2, longest=10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        again, _ = other.logprobs(prompts.repeated(2), drawn.ids, drawn.mask)
    assert ((again - drawn.logprobs) * drawn.mask).abs().max() < 1e-4
    assert check_sees(other, requests()[0]) > 1e-5


def test_the_vision_tower_is_frozen_unless_asked_and_lora_trains_adapters_alone(tmp_path: Path) -> None:
    folder = small(tmp_path / "small")
    full = prepare_weights(open_policy(folder), GrpoSettings())
    seeing = prepare_weights(open_policy(folder), GrpoSettings(train_vision=True))
    assert not any("visual" in name for name in full)
    assert any("visual" in name for name in seeing)
    pytest.importorskip("peft")
    policy = open_policy(folder)
    adapters = prepare_weights(policy, GrpoSettings(lora=2))
    assert adapters
    assert all("lora_" in name and "visual" not in name for name in adapters)
    with torch.no_grad():
        for weight in adapters.values():
            weight.add_(0.05)
    ids, mask = policy.target(["turn ice at a1 into water"] * 2)
    with torch.no_grad():
        inside, _ = policy.logprobs(policy.encode(requests()), ids, mask)
    plain = open_policy(save_policy(policy, tmp_path / "merged", merged(policy)))
    with torch.no_grad():
        outside, _ = plain.logprobs(plain.encode(requests()), ids, mask)
    assert (inside - outside).abs().max() < 1e-4
    assert not any("lora" in name for name, _ in plain.model.named_parameters())


def test_an_editor_that_changed_is_found() -> None:
    network = torch.nn.Linear(2, 2)
    editor = SimpleNamespace(pipeline=SimpleNamespace(components={"unet": network}))
    before = editor_digest(editor)
    assert before == editor_digest(editor)
    with torch.no_grad():
        network.weight[0, 0] += 1e-3
    with pytest.raises(CheckError, match="the editor changed"):
        check_frozen(before, editor_digest(editor))
    assert editor_digest(object()) is None
