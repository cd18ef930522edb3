"""Features that images are compared in: pixels, a classifier of digits, or a vision model from a folder.

Nothing is fetched: a vision model comes from a folder on disk, a classifier of digits is trained on the spot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from noria.core.errors import DataError, ModelError, NoriaError, require
from noria.core.files import check_inputs
from noria.core.models.loading import quiet_loading
from noria.core.records import read_json
from noria.distill.adapters import SmallAdapter
from noria.distill.data.images import ImageSet
from noria.distill.evaluation.classifier import train_classifier


def pixel_features(images: Tensor) -> npt.NDArray[np.float64]:
    """Colours of an image shrunk to at most 8 × 8 by area, [n, channels · 64] at most.

    They see layout, contrast and colour, not objects: a Fréchet distance in them is no FID. They need no other network.
    """
    size = (min(8, images.shape[-2]), min(8, images.shape[-1]))
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), size)
    return np.asarray(small.flatten(1).double().cpu().numpy())


@dataclass(frozen=True)
class FeatureExtractor:
    """Features that images are compared in.

    Attributes:
        name: name of the features in reports.
        features: images [n, channels, height, width] in [0, 1] to features [n, d].
        classify: images to class numbers [n], where prompts are class numbers.
    """

    name: str
    features: Callable[[Tensor], npt.NDArray[np.float64]]
    classify: Callable[[Tensor], npt.NDArray[np.int64]] | None = None


PIXELS = FeatureExtractor("pixels shrunk to 8 × 8", pixel_features)


def classifier_features(data: ImageSet, adapter: SmallAdapter) -> FeatureExtractor:
    """The penultimate layer of a small classifier trained on `data`, which also says what class an image is of.

    Raises:
        DataError: the images are of another size than the model draws, or of other classes.
    """
    if data.images.shape[1:] != adapter.latent_shape or data.classes != adapter.classes:
        raise DataError(
            f"{data.name} has images {data.images.shape[1:]} of {data.classes} classes, "
            f"the model draws {adapter.latent_shape} of {adapter.classes}",
            where="--reference",
            mend="compare with the images that the teacher was trained on",
        )
    classifier = train_classifier(data)

    def features(images: Tensor) -> npt.NDArray[np.float64]:
        return classifier.read(images * 2 - 1)[0]

    def classify(images: Tensor) -> npt.NDArray[np.int64]:
        return np.asarray(classifier.read(images * 2 - 1)[1].argmax(axis=1))

    right = f"{classifier.held_out_accuracy:.1%} of held-out images right"
    return FeatureExtractor(f"a classifier of {data.name} ({right})", features, classify)


def vision_features(folder: Path, device: torch.device | str = "cpu") -> FeatureExtractor:
    """The pooled output of a vision model of transformers (CLIP, SigLIP, DINOv2, ViT, …) in a folder on disk.

    Images are resized to the model's size with antialiasing and normalised by its own `preprocessor_config.json`.

    Raises:
        ModelError: there is no such model in the folder, or it gives no features.
        MissingExtra: transformers is not installed.
    """
    transformers = require("transformers", "distill")
    if not (folder / "config.json").is_file():
        raise ModelError(
            "no vision model", where=str(folder), mend="give the folder of a transformers vision model"
        )
    try:
        check_inputs(folder)
        with quiet_loading(transformers):
            model = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
    except (NoriaError, MemoryError):
        raise
    except Exception as error:  # readers of damaged files raise whatever they like
        raise ModelError(
            f"the vision model does not open ({type(error).__name__})",
            where=str(folder),
            mend="it must be a transformers model with safetensors weights",
        ) from error
    model = getattr(model, "vision_model", model).eval().requires_grad_(False).to(device)
    config = model.config
    side = getattr(config, "image_size", 224)
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    mean, std = _normalisation(folder)

    @torch.no_grad()
    def features(images: Tensor) -> npt.NDArray[np.float64]:
        x = images.float().expand(-1, 3, -1, -1)
        x = torch.nn.functional.interpolate(x, size=[height, width], mode="bicubic", antialias=True).clamp(
            0, 1
        )
        out: Any = model(pixel_values=((x - mean) / std).to(device))
        pooled = getattr(out, "pooler_output", None)
        if pooled is None:
            pooled = out.last_hidden_state.mean(dim=1)
        return np.asarray(pooled.double().cpu().numpy())

    return FeatureExtractor(f"{config.model_type} in {folder.name}", features)


def _normalisation(folder: Path) -> tuple[Tensor, Tensor]:
    try:
        stored = read_json(folder / "preprocessor_config.json")
        values = stored["image_mean"], stored["image_std"]
        mean, std = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in values)
    except (DataError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            "no mean and standard deviation to normalise images with",
            where=str(folder / "preprocessor_config.json"),
            mend="download the model with its preprocessor",
        ) from error
    return mean, std
