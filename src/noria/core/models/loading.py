"""Loading a causal language model by its name: a folder, a GGUF file, a hub id, or `small`, which ships with Noria."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from noria.core.digests import check_digests, weight_files, write_digests
from noria.core.errors import ModelError, NoriaError, needing, require
from noria.core.files import appearing, check_input, check_inputs

SMALL = "small"
"""The name of the model that ships with the package."""
SMALL_FOLDER = Path(str(files("noria.core"))) / "assets" / "lm"
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Files to fetch from a hub repository: no pickled weights, no code."""


@dataclass(frozen=True)
class LanguageModel:
    """A loaded causal language model.

    Attributes:
        name: name that the user gave.
        model: Hugging Face model, in evaluation mode.
        tokenizer: tokenizer of the model.
        files: folder or GGUF file that it was loaded from.
        vocab: number of logits that are tokens; the rest pads the output layer.
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
    """Load a causal language model; weights are read from safetensors or GGUF only, never from a pickle.

    Args:
        name: a folder, a `.gguf` file, a hub id, or `small`.
        precision: "fp32" or "bf16".
        device: device of the model; by default a GPU if there is one.
        allow_download: whether a hub id may be fetched; otherwise it must be in the local cache.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        ModelError: there is no such model, it is of another kind, or its tokenizer does not belong to it.
        CheckpointError: the folder has digests that Noria wrote, and a file of weights differs from its own.
        MissingExtra: a package that the format needs is not installed.
    """
    transformers = require("transformers", "mtp")
    source = _files(name, allow_download)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    folder = source
    weights: dict[str, Any] = {"use_safetensors": True}
    quiet = contextlib.ExitStack()
    if source.suffix == ".gguf":
        require("gguf", "gguf")
        unpacked = transformers.GgufConfig(dequantize=True)
        folder, options["gguf_file"], weights = source.parent, source.name, {"quantization_config": unpacked}
        quiet.enter_context(_no_gguf_bar())
    else:
        check_digests(folder)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    _register_mimo()
    with _load_errors(name), quiet_loading(transformers), quiet:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options, **weights)
    if source.suffix == ".gguf":
        _forget_packing(model)
    rows = model.get_output_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model {rows:,}",
            where=name,
            mend="give the model its own tokenizer",
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return LanguageModel(name, model.to(device).eval(), tokenizer, source, len(tokenizer))


def save_language_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a model for `from_pretrained`; `folder` is replaced as a whole, or stays as it was.

    Raises:
        RunError: the disk refuses.
        ValueError: transformers cannot save this kind, such as quantised weights.
    """
    with quiet_loading(require("transformers", "mtp")), appearing(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_digests(partial, weight_files(partial))


@contextlib.contextmanager
def quiet_loading(transformers: Any) -> Iterator[None]:
    """Silence the progress bars and warnings of transformers inside the block."""
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
def _no_gguf_bar() -> Iterator[None]:
    """Silence the progress bar over the tensors of a GGUF file, which ignores the settings of transformers."""
    from transformers import modeling_gguf_pytorch_utils as module

    bar = module.tqdm
    module.tqdm = lambda tensors, **_: tensors  # a bar that is off still takes a lock between processes
    try:
        yield
    finally:
        module.tqdm = bar


def _forget_packing(model: Any) -> None:
    """Weights out of a GGUF file are unpacked, so that the model can be saved as any other."""
    for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(mark, None)
    model.config.__dict__.pop("quantization_config", None)


@functools.cache
def _register_mimo() -> None:
    """Register MiMo, a Qwen2 under another name, so that it loads without the code in its repository."""
    import transformers

    class MiMoConfig(transformers.Qwen2Config):  # type: ignore[misc]
        model_type = "mimo"

    class MiMoForCausalLM(transformers.Qwen2ForCausalLM):  # type: ignore[misc]
        config_class = MiMoConfig
        _keys_to_ignore_on_load_unexpected = (r"model\.mtp_layers\..*",)

    transformers.AutoConfig.register("mimo", MiMoConfig, exist_ok=True)
    transformers.AutoModelForCausalLM.register(MiMoConfig, MiMoForCausalLM, exist_ok=True)


def _files(name: str, allow_download: bool) -> Path:
    """Folder or GGUF file of the model `name`."""
    if name == SMALL:
        return SMALL_FOLDER
    path = Path(name).expanduser()
    if path.is_dir():
        check_inputs(path)
        return path
    if path.suffix == ".gguf" and path.exists():
        check_input(path)
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
def _load_errors(name: str) -> Iterator[None]:
    """Raise what transformers raises for a folder that is not a model as a `ModelError`, which is one line."""
    try:
        yield
    except (NoriaError, MemoryError):
        raise
    except Exception as error:  # readers of damaged files raise whatever they like
        text = str(error)
        if "trust_remote_code" in text:
            raise ModelError(
                "it brings its own code", where=name, mend="give --trust-remote-code if you trust it"
            ) from error
        reason = (text.strip() or type(error).__name__).splitlines()[0][:160]
        raise ModelError(
            f"not a causal language model that can be loaded ({reason})",
            where=name,
            mend="give a Hugging Face model folder with safetensors weights",
        ) from error
