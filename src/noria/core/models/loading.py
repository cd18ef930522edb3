"""Opening a causal language model that a user names: a folder, a GGUF file, a hub id, or the small one that ships."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from noria.core.errors import ModelError, needing, require
from noria.core.files import appearing

__all__ = ["SMALL", "LanguageModel", "open_language_model", "quiet_loading", "save_language_model"]

SMALL = "small"
"""The name of the model that ships with the package."""
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""What is fetched of a hub repository: no pickled weights, no code."""


@dataclass(frozen=True)
class LanguageModel:
    """A model, ready to use.

    Attributes:
        name: the name that the user gave.
        model: the Hugging Face causal language model, in evaluation mode.
        tokenizer: the model's own tokenizer.
        files: the folder or GGUF file that it was opened from.
        vocab: how many of its logits are tokens; the rest pads the output layer.
    """

    name: str
    model: Any
    tokenizer: Any
    files: Path
    vocab: int


def open_language_model(
    name: str,
    *,
    precision: str = "fp32",
    device: torch.device | str | None = None,
    allow_download: bool = False,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Open a causal language model; weights are read from safetensors or GGUF only, never from a pickle.

    Args:
        name: a folder, a `.gguf` file, a hub id, or `small`.
        precision: "fp32" or "bf16".
        device: where; a GPU if there is one by default.
        allow_download: whether a hub id may be fetched; otherwise only the local cache is looked in.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        ModelError: there is no such model, it is of another kind, or its tokenizer is another model's.
        MissingExtra: a package that its format needs is absent.
    """
    transformers = require("transformers", "mtp")
    found = _files(name, allow_download)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    folder = found
    quiet = contextlib.ExitStack()
    if found.suffix == ".gguf":
        require("gguf", "gguf")
        folder, options["gguf_file"] = found.parent, found.name
        quiet.enter_context(_no_bar_of_gguf())
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    _know_mimo()
    with _one_line(name), quiet_loading(transformers), quiet:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        if "gguf_file" not in options:
            options["use_safetensors"] = True
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    rows = model.get_output_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model {rows:,}",
            where=name,
            mend="give the model its own tokenizer",
        )
    goal = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return LanguageModel(name, model.to(goal).eval(), tokenizer, found, len(tokenizer))


def save_language_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a policy as `from_pretrained` opens it; `folder` is whole or as it was.

    Raises:
        RunError: the disk refuses.
        ValueError: transformers cannot write its kind, such as weights out of a GGUF file.
    """
    with quiet_loading(require("transformers", "mtp")), appearing(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


@contextlib.contextmanager
def quiet_loading(transformers: Any) -> Iterator[None]:
    """Without the progress bars and remarks of transformers."""
    logging = transformers.utils.logging
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _no_bar_of_gguf() -> Iterator[None]:
    """Without the progress bar of tensors from a GGUF file, which heeds no setting of transformers."""
    from transformers import modeling_gguf_pytorch_utils as module

    bar = module.tqdm
    module.tqdm = lambda tensors, **_: tensors  # a bar that is off still takes a lock between processes
    try:
        yield
    finally:
        module.tqdm = bar


@functools.cache
def _know_mimo() -> None:
    """Tell transformers of MiMo, a Qwen2 whose files have another name for it, so that it needs no code of its own."""
    import transformers

    class MiMoConfig(transformers.Qwen2Config):  # type: ignore[misc]
        model_type = "mimo"

    class MiMoForCausalLM(transformers.Qwen2ForCausalLM):  # type: ignore[misc]
        config_class = MiMoConfig
        _keys_to_ignore_on_load_unexpected = (r"model\.mtp_layers\..*",)

    transformers.AutoConfig.register("mimo", MiMoConfig, exist_ok=True)
    transformers.AutoModelForCausalLM.register(MiMoConfig, MiMoForCausalLM, exist_ok=True)


def _files(name: str, allow_download: bool) -> Path:
    if name == SMALL:
        return Path(str(files("noria.core"))) / "assets" / "lm"
    path = Path(name).expanduser()
    if path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return path
    if path.exists() or path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise ModelError(
            "no such model", where=name, mend=f"give a model folder, a .gguf file, a hub id, or {SMALL!r}"
        )
    with needing("mtp"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    try:
        return Path(snapshot_download(name, local_files_only=not allow_download, allow_patterns=FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        mend = (
            "check the id and the network"
            if allow_download
            else "give --allow-download to fetch it, or a local folder"
        )
        raise ModelError("no such folder, and not in the local cache", where=name, mend=mend) from error


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """What transformers raises for a folder that is no model, in one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise ModelError(
                "it brings its own code", where=name, mend="give --trust-remote-code if you trust it"
            ) from error
        first = (text.strip() or type(error).__name__).splitlines()[0][:160]
        raise ModelError(
            f"not a causal language model that opens ({first})",
            where=name,
            mend="give a Hugging Face model folder with safetensors weights",
        ) from error
