"""Opening a model: a diffusers folder of Wan-VACE, stock or ours, or a tiny random one to try the path with."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from noria.core.errors import ModelError
from noria.core.files import decoding
from noria.core.records import json_object
from noria.tryon.model.transformer import ITryOnTransformer3DModel
from noria.tryon.pipeline.pipeline import ITryOnPipeline

TINY = "tiny"
FAMILIES = ("WanVACETransformer3DModel", "ITryOnTransformer3DModel")
SCHEDULERS = ("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler")


def open_pipeline(
    model: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", **settings: Any
) -> ITryOnPipeline:
    """Load a pipeline. Weights are safetensors only, and no name of a class in the folder is imported.

    Args:
        model: folder that diffusers saved, or `tiny` for random weights of a few thousand parameters.
        dtype: number format of the transformer and the text encoder.
        device: device of the models.
        settings: settings of `ITryOnTransformer3DModel` that a stock checkpoint does not have.

    Raises:
        ModelError: there is no such folder, or it is of another family.
        CheckpointError: the transformer lacks weights.
    """
    if model == TINY:
        tiny = tiny_pipeline(**settings).to(device)
        if dtype != torch.float32:
            tiny.text_encoder.to(dtype)
            wide = tiny.transformer._keep_in_fp32_modules
            values = [*tiny.transformer.named_parameters(), *tiny.transformer.named_buffers()]
            for name, value in values:
                if not any(part in name.split(".") for part in wide):
                    value.data = value.data.to(dtype)
        return tiny  # type: ignore[no-any-return]
    folder = _folder(model)
    index = json_object(folder / "model_index.json", "a diffusers pipeline")
    with decoding(folder, "a Wan-VACE pipeline", error=ModelError):
        parts = _parts(folder, index, dtype, settings)
    pipeline = ITryOnPipeline(**parts, boundary_ratio=index.get("boundary_ratio"))
    return pipeline.to(device)  # type: ignore[no-any-return]


def _parts(
    folder: Path, index: dict[str, Any], dtype: torch.dtype, settings: dict[str, Any]
) -> dict[str, Any]:
    import diffusers
    import transformers
    from transformers import AutoTokenizer, UMT5EncoderModel

    transformers.utils.logging.disable_progress_bar()
    parts: dict[str, Any] = {}
    for name in _transformers(folder):
        parts[name] = ITryOnTransformer3DModel.from_pretrained(
            folder / name, torch_dtype=dtype, use_safetensors=True, local_files_only=True, **settings
        )
    scheduler = json_object(folder / "scheduler" / "scheduler_config.json", "a scheduler").get("_class_name")
    if scheduler not in SCHEDULERS:
        raise ModelError(f"scheduler {scheduler!r} is none of {', '.join(SCHEDULERS)}", where=str(folder))
    local = {"local_files_only": True}
    parts["scheduler"] = getattr(diffusers, scheduler).from_pretrained(folder / "scheduler", **local)
    parts["vae"] = diffusers.AutoencoderKLWan.from_pretrained(folder / "vae", use_safetensors=True, **local)
    parts["text_encoder"] = UMT5EncoderModel.from_pretrained(
        folder / "text_encoder", dtype=dtype, use_safetensors=True, **local
    )
    parts["tokenizer"] = AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False, **local)
    return parts


def tiny_pipeline(seed: int = 0, **settings: Any) -> ITryOnPipeline:
    """A pipeline of random weights with Wan's interfaces; it draws nothing that means anything."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
    from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        )
        text = UMT5EncoderModel(
            UMT5Config(
                vocab_size=384,
                d_model=16,
                d_kv=8,
                d_ff=32,
                num_layers=2,
                num_heads=2,
                relative_attention_num_buckets=8,
            )
        )
        sizes: dict[str, Any] = {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "text_dim": 16,
            "freq_dim": 32,
            "ffn_dim": 32,
            "num_layers": 3,
            "vace_layers": [0, 2],
            "guider_dim": 12,
            "guider_layers": 1,
        }
        transformer = ITryOnTransformer3DModel(**sizes | settings)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    parts = {"vae": vae.eval(), "text_encoder": text.eval(), "transformer": transformer.eval()}
    return ITryOnPipeline(tokenizer=ByT5Tokenizer(), scheduler=scheduler, **parts)


def outline(model: str, dtype: torch.dtype) -> SimpleNamespace:
    """The models of a pipeline without their weights: all that tells its cost.

    Args:
        model: folder that diffusers saved, or `tiny`.
        dtype: number format of the transformer and the text encoder.

    Raises:
        ModelError: there is no such folder, or it is of another family.
    """
    if model == TINY:
        return open_pipeline(TINY, dtype=dtype)
    import diffusers
    from transformers import UMT5Config, UMT5EncoderModel

    folder = _folder(model)
    parts: dict[str, Any] = dict.fromkeys(("transformer", "transformer_2"))
    with decoding(folder, "a Wan-VACE pipeline", error=ModelError), torch.device("meta"):
        for name in _transformers(folder):
            config = ITryOnTransformer3DModel.load_config(folder / name, local_files_only=True)
            parts[name] = ITryOnTransformer3DModel.from_config(config).to(dtype)
        vae = diffusers.AutoencoderKLWan.load_config(folder / "vae", local_files_only=True)
        parts["vae"] = diffusers.AutoencoderKLWan.from_config(vae)
        text = UMT5Config.from_pretrained(folder / "text_encoder", local_files_only=True)
        parts["text_encoder"] = UMT5EncoderModel(text).to(dtype)
    return SimpleNamespace(**parts)


def pipeline_digest(pipeline: Any) -> str:
    """Digest of all of a pipeline that its results depend on: a few weights of each model, and all configurations."""
    from noria.core.runs.checkpoints import fingerprint
    from noria.tryon.pipeline.chunks import digest_of

    models = (pipeline.transformer, pipeline.transformer_2, pipeline.vae, pipeline.text_encoder)
    present = [model for model in models if model is not None]
    parts = (pipeline, pipeline.scheduler, *present[:-1])
    configs = [{k: v for k, v in dict(one.config).items() if k[0] != "_"} for one in parts]
    adapters = [
        {name: one.to_dict() for name, one in getattr(model, "peft_config", {}).items()} for model in present
    ]
    tiles = {name: value for name, value in vars(pipeline.vae).items() if "til" in name or "slic" in name}
    formats = [str(model.dtype) for model in present]
    said = json.dumps([configs, adapters, tiles, formats], sort_keys=True, default=_sorted)
    return digest_of([fingerprint(model) for model in present], said.encode())


def _sorted(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _folder(model: str) -> Path:
    folder = Path(model)
    if not folder.is_dir():
        raise ModelError("no such folder", where=model, mend="give a diffusers folder of Wan-VACE, or tiny")
    return folder


def _transformers(folder: Path) -> list[str]:
    """Names of the transformers of a folder, all of them of our family.

    Raises:
        ModelError: there is none, or one of another family.
    """
    names = [name for name in ("transformer", "transformer_2") if (folder / name).is_dir()]
    for name in names:
        config = json_object(folder / name / "config.json", "a transformer's configuration")
        if (family := config.get("_class_name")) not in FAMILIES:
            raise ModelError(
                f"a {family}, not a Wan-VACE transformer",
                where=str(folder / name),
                mend="give a Wan-VACE model",
            )
    if not names:
        raise ModelError("no transformer in it", where=str(folder))
    return names
