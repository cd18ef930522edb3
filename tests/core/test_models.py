"""Models from other formats than folders of safetensors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from noria.core.errors import CheckpointError
from tests.core.gguf_files import write_tiny_llama

pytest.importorskip("torch")
pytest.importorskip("gguf")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A random Llama of two layers and 258 tokens as llama.cpp keeps it."""
    return write_tiny_llama(tmp_path / "tiny.gguf")


def test_a_gguf_file_opens_without_a_word(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    from noria.core.models.loading import open_language_model

    opened = open_language_model(str(llama), device="cpu")
    assert opened.vocab == 258
    with torch.no_grad():
        logits = opened.model(input_ids=torch.tensor([[1, 2, 3]])).logits
    assert logits.shape == (1, 3, 258)
    assert bool(logits.isfinite().all())
    assert "dequantizing" not in capfd.readouterr().err.replace("-", "")


def test_a_model_from_a_gguf_file_is_saved_as_any_other(llama: Path, tmp_path: Path) -> None:
    import torch

    from noria.core.models.loading import open_language_model, save_language_model

    opened = open_language_model(str(llama), device="cpu")
    save_language_model(opened.model, opened.tokenizer, tmp_path / "copy")
    again = open_language_model(str(tmp_path / "copy"), device="cpu")
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(opened.model(tokens).logits, again.model(tokens).logits)


def test_a_model_is_written_without_a_word_and_for_whoever_may_read_the_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from noria.core.models.loading import open_language_model, save_language_model

    opened = open_language_model("small")
    save_language_model(opened.model, opened.tokenizer, tmp_path / "copy")
    assert capfd.readouterr() == ("", "")
    folder = tmp_path / "copy"
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert set(modes.values()) == {folder.stat().st_mode & 0o666}
    assert "model.safetensors" in modes
    again = open_language_model(str(folder))
    assert all(
        (a == b).all() for a, b in zip(opened.model.parameters(), again.model.parameters(), strict=True)
    )


def test_a_flipped_bit_in_a_model_that_noria_wrote_is_refused_and_a_changed_config_is_not(
    tmp_path: Path,
) -> None:
    from noria.core.models.loading import open_language_model, save_language_model

    opened = open_language_model("small")
    save_language_model(opened.model, opened.tokenizer, tmp_path / "copy")
    (tmp_path / "copy" / "generation_config.json").write_text('{"max_new_tokens": 5}')
    open_language_model(str(tmp_path / "copy"))
    file = tmp_path / "copy" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: its content is not what was written"):
        open_language_model(str(tmp_path / "copy"))


def test_a_file_that_is_somewhere_else_too_keeps_its_mode(tmp_path: Path) -> None:
    from noria.core.files import appearing

    source = tmp_path / "weights"
    source.write_text("mine")
    source.chmod(0o600)
    with appearing(tmp_path / "copy") as partial:
        (partial / "weights").hardlink_to(source)
    assert source.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("length", [0, 3, 8, 24, 200, 5000, -100])
def test_a_gguf_file_that_was_cut_is_one_line(llama: Path, length: int) -> None:
    from noria.core.errors import NoriaError
    from noria.core.models.loading import open_language_model

    llama.write_bytes(llama.read_bytes()[:length])
    with pytest.raises(NoriaError) as raised:
        open_language_model(str(llama), device="cpu")
    assert str(llama) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_pipe_in_a_model_folder_is_not_waited_for(tmp_path: Path) -> None:
    from noria.core.errors import DataError
    from noria.core.models.loading import open_language_model

    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(DataError, match="a pipe or a device"):
        open_language_model(str(tmp_path))
