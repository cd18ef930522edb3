"""A head goes into its model's files under the vendor's names and comes out the same; the backbone's bytes stay."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from noria.core import files
from noria.core.digests import DIGESTS
from noria.core.errors import CheckpointError, ModelError, RunError
from noria.mtp.heads.checkpoint import HEAD_FILE, head_tensors, load_head, save_with_head, stored_layout
from noria.mtp.heads.head import MTPHead
from noria.mtp.heads.layouts import LAYOUTS
from noria.mtp.heads.model_files import INDEX, SINGLE, ModelFiles
from tests.mtp.test_heads import states_of, text_of
from tests.mtp.tiny_models import BACKBONES, LAYOUT_OF, head_of, tiny

SHARDS = {"single": "1GB", "sharded": "20KB"}


def saved(family: str, folder: Path, size: str = "1GB", seed: int = 0) -> Any:
    """A backbone in a folder, and opened from it."""
    tiny(family, seed=seed).save_pretrained(folder, max_shard_size=size)
    (folder / "tokenizer.json").write_text("{}")
    return opened(folder)


def opened(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def layout_for(family: str) -> Any:
    return LAYOUTS[LAYOUT_OF[family]]  # type: ignore[index]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def contents(folder: Path) -> dict[str, torch.Tensor]:
    found = ModelFiles.of(folder)
    return found.tensors(list(found.where))


@pytest.mark.parametrize("size", SHARDS)
@pytest.mark.parametrize(("family", "layers"), [(f, n) for f in BACKBONES for n in (1, 2)])
def test_a_head_comes_back_from_its_models_files(tmp_path: Path, family: str, layers: int, size: str) -> None:
    model = saved(family, tmp_path / "model", SHARDS[size])
    before = everything(tmp_path / "model")
    head, layout = head_of(model, family, layers=layers), layout_for(family)
    save_with_head(model, head, tmp_path / "model", tmp_path / "out")
    again = opened(tmp_path / "out")
    loaded = load_head(again, tmp_path / "out", layout=layout).eval()
    tokens = text_of(2, 9)
    with torch.no_grad():
        steps = 2
        one, other = (
            head(states_of(model, tokens), tokens, steps=steps),
            loaded(states_of(again, tokens), tokens, steps=steps),
        )
    mine, theirs = head.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[n], theirs[n]) and mine[n].dtype == theirs[n].dtype for n in mine)
    torch.testing.assert_close(
        one, other, rtol=1e-5, atol=1e-5
    )  # where weights lie in memory decides round-off
    assert (tmp_path / "out" / "tokenizer.json").exists()
    counted = json.loads((tmp_path / "out" / "config.json").read_text())
    assert counted[layout.count] == layers
    # The backbone: the same tensors, to the byte, and nothing of the source has changed.
    assert everything(tmp_path / "model") == before
    old, new = contents(tmp_path / "model"), contents(tmp_path / "out")
    assert old.keys() <= new.keys()
    assert all(old[n].dtype == new[n].dtype and torch.equal(old[n], new[n]) for n in old)
    extra = new.keys() - old.keys()
    assert all(layout.owns(name, head.depth) for name in extra)
    assert {layout.key(p, 0, head.depth) for p in layout.names} <= extra
    assert (tmp_path / "out" / HEAD_FILE).exists() == (size == "sharded")


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe", "qwen3_next"])
def test_experts_are_stored_as_the_vendor_stores_them(tmp_path: Path, family: str) -> None:
    """One tensor an expert in files, whatever the module computes with."""
    model = saved(family, tmp_path / "model")
    head = head_of(model, family)
    names = set(head_tensors(model, head))
    prefix = head.layout.prefix(0, head.depth)
    stored = {n.split("layers.1.")[1] for n in ModelFiles.of(tmp_path / "model").where if "layers.1." in n}
    mine = {n.removeprefix(prefix) for n in names if n.startswith(prefix)}
    parts = {head.layout.key(p, 0, head.depth).removeprefix(prefix) for p in head.layout.names}
    assert mine - parts == stored
    assert any("experts.3.down_proj" in n for n in names)


def test_transformers_own_mtp_opens_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import DeepseekV3ForCausalLM

    model = saved("deepseek_v3", tmp_path / "model")
    head = head_of(model, "deepseek_v3")
    save_with_head(model, head, tmp_path / "model", tmp_path / "out")
    monkeypatch.setattr(DeepseekV3ForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.2.*"])
    again = opened(tmp_path / "out")
    from transformers.modeling_layers import MtpModel

    theirs = MtpModel.from_pretrained(again).eval()
    ids = text_of(1, 6)
    with torch.no_grad():
        wanted = head(states_of(model, text_of(1, 7)[:, :7]), text_of(1, 7), steps=1)
        assert wanted.isfinite().all()
        for name, mine in (("enorm", "embedding_norm"), ("hnorm", "hidden_norm"), ("eh_proj", "projection")):
            assert torch.equal(getattr(theirs.layers[0], name).weight, getattr(head.around[0], mine).weight)
        mine, other = head.blocks[0].state_dict(), theirs.layers[0].mtp_block.state_dict()
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[n], other[n]) for n in mine)
        plain = again.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
        drafted = again.generate(ids, max_new_tokens=12, do_sample=False, use_mtp=True, pad_token_id=0)
    assert torch.equal(plain, drafted)


@pytest.mark.parametrize("size", SHARDS)
def test_a_head_replaces_the_one_before_in_place(tmp_path: Path, size: str) -> None:
    model = saved("deepseek_v3", tmp_path / "model", SHARDS[size])
    backbone = contents(tmp_path / "model")
    for seed in (1, 2):
        head = head_of(model, "deepseek_v3", seed=seed)
        save_with_head(model, head, tmp_path / "model", tmp_path / "model", overwrite=True)
        now = contents(tmp_path / "model")
        assert all(torch.equal(now[n], t) for n, t in head_tensors(model, head).items())
        assert all(torch.equal(now[n], t) for n, t in backbone.items())
    files_there = {p.name for p in (tmp_path / "model").glob("*.safetensors")}
    assert files_there == set(ModelFiles.of(tmp_path / "model").where.values()), "no shard is left over"
    if size == "sharded":
        total = json.loads((tmp_path / "model" / INDEX).read_text())["metadata"]["total_size"]
        assert total == sum(t.nbytes for t in now.values())
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_bfloat16_files_get_a_bfloat16_head(tmp_path: Path) -> None:
    tiny("qwen3").bfloat16().save_pretrained(tmp_path / "model")
    model = opened(tmp_path / "model")
    save_with_head(model, head_of(model, "qwen3"), tmp_path / "model", tmp_path / "out")
    assert {t.dtype for t in contents(tmp_path / "out").values()} == {torch.bfloat16}


def test_what_the_model_stores_wide_the_head_stores_wide(tmp_path: Path) -> None:
    """The bias that balances experts is float32 in bfloat16 files: rounded, tokens would go to other experts."""
    model = tiny("deepseek_v3").bfloat16()
    gate = model.model.layers[1].mlp.gate
    gate.e_score_correction_bias = gate.e_score_correction_bias.float() + torch.tensor([1.0001, 2, 3, 4.0003])
    model.save_pretrained(tmp_path / "model")
    before = contents(tmp_path / "model")["model.layers.1.mlp.gate.e_score_correction_bias"]
    assert before.dtype == torch.float32
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).eval()
    head = MTPHead.fresh(model)
    save_with_head(model, head, tmp_path / "model", tmp_path / "out")
    stored = contents(tmp_path / "out")["model.layers.2.mlp.gate.e_score_correction_bias"]
    assert torch.equal(stored, before)
    assert contents(tmp_path / "out")["model.layers.2.self_attn.o_proj.weight"].dtype == torch.bfloat16
    again = load_head(model, tmp_path / "out").blocks[0].mlp.gate.e_score_correction_bias
    assert torch.equal(again, before)


@pytest.mark.parametrize("size", SHARDS)
def test_files_of_the_same_name_in_subfolders_stay_and_a_head_replaces_that_of_another_layout(
    tmp_path: Path, size: str
) -> None:
    model = saved("qwen3", tmp_path / "model", SHARDS[size])
    more = {"onnx/config.json": b"{}", f"original/{SINGLE}": b"weights", "a/b/note.txt": b"n"}
    for name, content in more.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    for family in ("qwen3", "mimo"):
        head = head_of(model, family)
        save_with_head(model, head, tmp_path / "model", tmp_path / "model", overwrite=True)
    there = everything(tmp_path / "model")
    assert {name: there[name] for name in more} == more
    # A head is read by the layout of the files, whatever the family's is.
    assert load_head(model, tmp_path / "model").layout is layout_for("mimo")
    assert stored_layout(model, tmp_path / "model") is layout_for("mimo")
    with pytest.raises(ModelError, match="no head in the qwen layout"):
        load_head(model, tmp_path / "model", layout=layout_for("qwen3"))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["mtp_num_hidden_layers"], config["num_nextn_predict_layers"]) == (0, 1)


def test_a_head_for_quantised_weights_is_refused(tmp_path: Path) -> None:
    model = saved("qwen3", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "fp8"}})
    )
    with pytest.raises(ModelError, match="quantised by fp8"):
        save_with_head(model, head_of(model, "qwen3"), tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_engines_find_the_number_of_layers_where_they_look(tmp_path: Path) -> None:
    """vLLM reads `num_nextn_predict_layers` of Qwen3-Next, and `mtp_num_hidden_layers` of Qwen3.5."""
    model = saved("qwen3_next", tmp_path / "model")
    save_with_head(model, head_of(model, "qwen3_next", layers=2), tmp_path / "model", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_nextn_predict_layers"] == config["mtp_num_hidden_layers"] == 2


# -- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_export_leaves_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    model = saved("qwen3", tmp_path / "model")
    before = everything(tmp_path / "model")

    def fails(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(files, "_flush", fails)
    for output in ("model", "new"):
        with pytest.raises((RunError, KeyboardInterrupt)):
            save_with_head(
                model, head_of(model, "qwen3"), tmp_path / "model", tmp_path / output, overwrite=True
            )
    assert everything(tmp_path / "model") == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("moment", ["writing", "between two renames", "cleaning up"])
def test_a_process_killed_while_it_replaces_a_model_loses_none(tmp_path: Path, moment: str) -> None:
    """The folder holds the old model or the new one; or does again once anything is written there."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "file").write_text("old")
    if (child := os.fork()) == 0:
        rename = Path.rename

        def die(*_: Any, **__: Any) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

        if moment == "writing":
            files._flush = die
        elif moment == "cleaning up":
            files.shutil.rmtree = die  # type: ignore[assignment]
        else:  # where the system cannot swap folders
            files._swapped = lambda *_: False
            Path.rename = lambda self, to: die() if "partial" in self.name else rename(self, to)  # type: ignore[method-assign]
        with files.appearing(folder) as partial:
            (partial / "file").write_text("new")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if moment != "between two renames":
        assert (folder / "file").read_text() == ("new" if moment == "cleaning up" else "old")
    with contextlib.suppress(KeyError), files.appearing(folder):
        raise KeyError  # the next export, which comes to nothing
    assert (folder / "file").read_text() == ("new" if moment == "cleaning up" else "old")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_missing_key_another_shape_and_nan_are_told(tmp_path: Path) -> None:
    model = saved("glm4_moe", tmp_path / "model")
    save_with_head(model, head_of(model, "glm4_moe"), tmp_path / "model", tmp_path / "out")
    (tmp_path / "out" / DIGESTS).unlink()  # as in files that Noria did not write
    whole = load_file(tmp_path / "out" / SINGLE)
    faults: list[tuple[str, Any, str]] = [
        ("model.layers.2.eh_proj.weight", None, "lacks model.layers.2.eh_proj.weight"),
        (
            "model.layers.2.mlp.experts.1.up_proj.weight",
            None,
            "lacks model.layers.2.mlp.experts.1.up_proj.weight",
        ),
        ("model.layers.2.eh_proj.weight", torch.zeros(4, 4), r"shape \[4, 4\]"),
        ("model.layers.2.self_attn.o_proj.weight", torch.zeros(4, 4), "another shape"),
        ("model.layers.2.hnorm.weight", torch.full((32,), torch.nan), "not finite"),
        ("model.layers.2.self_attn.o_proj.weight", torch.full((32, 32), torch.inf), "not finite"),
    ]
    for name, tensor, words in faults:
        broken = {n: t for n, t in whole.items() if n != name} | ({} if tensor is None else {name: tensor})
        save_file(broken, tmp_path / "out" / SINGLE, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=words):
            load_head(model, tmp_path / "out")


@pytest.mark.parametrize("size", SHARDS)
def test_a_flipped_bit_in_a_written_head_or_its_backbone_is_refused(tmp_path: Path, size: str) -> None:
    model = saved("qwen3", tmp_path / "model", SHARDS[size])
    save_with_head(model, head_of(model, "qwen3"), tmp_path / "model", tmp_path / "out")
    for file in sorted((tmp_path / "out").glob("*.safetensors")):
        whole = file.read_bytes()
        file.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        with pytest.raises(CheckpointError, match=f"{file.name}: its content is not what was written"):
            load_head(model, tmp_path / "out")
        file.write_bytes(whole)
    assert load_head(model, tmp_path / "out").layers == 1
    # An export made from an export has the digests of its own files.
    save_with_head(model, head_of(model, "qwen3"), tmp_path / "out", tmp_path / "again")
    assert load_head(model, tmp_path / "again").layers == 1


def test_what_is_no_place_no_head_or_no_model(tmp_path: Path) -> None:
    model = saved("qwen3", tmp_path / "model")
    head = head_of(model, "qwen3")
    with pytest.raises(ModelError, match=r"no head in the qwen layout.*mtp\.fc\.weight"):
        load_head(model, tmp_path / "model")
    with pytest.raises(RunError, match="exists already"):
        save_with_head(model, head, tmp_path / "model", tmp_path / "model")
    with pytest.raises(RunError, match="overlaps"):
        save_with_head(model, head, tmp_path / "model", tmp_path / "model" / "out")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="no earlier export"):
        save_with_head(model, head, tmp_path / "model", tmp_path / "else", overwrite=True)
    with pytest.raises(ModelError, match="no safetensors"):
        load_head(model, tmp_path / "else")
    saved("qwen3", tmp_path / "other", seed=9)
    with pytest.raises(CheckpointError, match="not that of the model"):
        save_with_head(model, head, tmp_path / "other", tmp_path / "out")
    with torch.no_grad():
        next(head.parameters())[0] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        save_with_head(model, head, tmp_path / "model", tmp_path / "out")
    (tmp_path / "other" / SINGLE).write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="can be read"):
        load_head(model, tmp_path / "other")
    (tmp_path / "other" / SINGLE).unlink()
    (tmp_path / "other" / INDEX).write_text(json.dumps({"weight_map": {"a": "missing.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"missing\.safetensors"):
        load_head(model, tmp_path / "other")
    assert not (tmp_path / "out").exists()
