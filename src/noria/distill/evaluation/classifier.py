"""The ruler of the proofs: a small classifier whose features the metrics are measured in, and the measuring.

FID and its kin compare images in the penultimate layer of a network that was trained on other images of the same
kind. For digits of 8 × 8 or 28 × 28 pixels that is a small convolutional classifier, trained here in seconds on the
reference set's train part and never on a generated image. Its features are the 64 inputs of the last activation,
divided by one number so that their variance over the training images is 1 on average. So distances are comparable
between seeds and sets: the Fréchet distance from the training images to a single point is 64 and more, to held-out
images it is that of any sample of their size. It is no FID, and comparable with none.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from noria.core.errors import CheckpointError, DataError
from noria.core.files import check_input, write_atomic
from noria.distill.data.images import ImageSet
from noria.distill.evaluation import metrics
from noria.distill.evaluation.points import Array, Floats

FEATURES = 64
"""Numbers in a feature vector."""

_FORMAT = "noria image classifier 1"
_BATCH, _RATE, _DROPOUT = 64, 3e-3, 0.2


class Classifier(nn.Module):
    """A convolutional classifier of images [batch, channels, height, width] in [−1, 1].

    Attributes:
        shape: (channels, height, width).
        classes: number of classes.
        data: name of the images that it was trained on.
        held_out_accuracy: share of held-out images it gets right; NaN before training.
    """

    scale: Tensor

    def __init__(
        self, shape: tuple[int, int, int], classes: int, data: str = "", held_out_accuracy: float = math.nan
    ) -> None:
        super().__init__()
        channels, height, width = shape
        if channels < 1 or classes < 1 or not 4 <= min(shape[1:]) <= max(shape[1:]) <= 512:
            raise DataError(
                f"images {shape} in {classes} classes are not for this classifier",
                mend="4 to 512 pixels a side",
            )
        self.shape, self.classes, self.data = shape, classes, data
        self.held_out_accuracy = held_out_accuracy
        large = min(height, width) >= 16
        first = 16 if large else 32
        layers: list[nn.Module] = [nn.Conv2d(channels, first, 3, padding=1), nn.GELU()]
        if large:
            layers += [nn.MaxPool2d(2)]
        layers += [nn.Conv2d(first, 32, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(32, 64, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Flatten()]
        halvings = 8 if large else 4
        self.trunk = nn.Sequential(*layers)
        self.embed = nn.Linear(64 * (height // halvings) * (width // halvings), FEATURES)
        self.head = nn.Sequential(nn.GELU(), nn.Dropout(_DROPOUT), nn.Linear(FEATURES, classes))
        self.register_buffer("scale", torch.ones(()))

    def features(self, images: Tensor) -> Tensor:
        """The penultimate layer [batch, 64], with unit mean variance over the training images."""
        return self._embedded(images) / self.scale

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes]."""
        logits: Tensor = self.head(self._embedded(images))
        return logits

    def _embedded(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.embed(self.trunk(images))
        return embedded

    @torch.no_grad()
    def read(self, images: Array) -> tuple[Floats, Floats]:
        """Features [n, 64] and logits [n, classes] of `images` [n, channels, height, width], as float64 arrays.

        Computed in evaluation mode, on one thread and in fixed batches, so that the same images give the same bits
        wherever they are measured.
        """
        batch = torch.as_tensor(images, dtype=torch.float32, device=self.scale.device)
        if tuple(batch.shape[1:]) != self.shape or not len(batch):
            raise DataError(
                f"images {tuple(batch.shape)} for a classifier of [n, {', '.join(map(str, self.shape))}]"
            )
        training = self.training
        self.eval()
        with _one_thread():
            embedded = [self._embedded(part) for part in torch.split(batch, 500)]
            logits = torch.cat([self.head(part) for part in embedded])
            features = torch.cat(embedded) / self.scale
        self.train(training)
        return features.cpu().double().numpy(), logits.cpu().double().numpy()

    def save(self, path: Path) -> None:
        """Write weights and shape as one safetensors file, all of it or nothing."""
        about = {
            "shape": list(self.shape),
            "classes": self.classes,
            "data": self.data,
            "held_out_accuracy": self.held_out_accuracy,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_atomic(path, save(tensors, {"format": _FORMAT, "classifier": json.dumps(about)}))

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Read a file that `save` wrote.

        Raises:
            DataError: not there, or no file that can be opened.
            CheckpointError: damaged, or of something else.
        """
        check_input(path)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise CheckpointError(
                        "a safetensors file, but of no classifier of this kind", where=str(path)
                    )
                about = json.loads(metadata["classifier"])
                channels, height, width = about.pop("shape")
                classifier = cls((channels, height, width), **about)
                classifier.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, DataError) as error:
            raise CheckpointError(
                f"no classifier can be read here ({type(error).__name__})",
                where=str(path),
                mend="train it again",
            ) from error
        return classifier.eval()


def train_classifier(image_set: ImageSet, seed: int = 0, *, steps: int | None = None) -> Classifier:
    """Train a `Classifier` on the train part of `image_set.split()`.

    AdamW with one learning-rate cycle, for five epochs and at least 400 steps: 98 % of held-out 8 × 8 digits in some 3
    seconds and of MNIST in some 15 on one core. No longer than that, because features that know the training images
    by heart would put held-out images at a distance that is the classifier's own making.

    Deterministic: it runs on one thread, from `seed` alone, and leaves the process's random state as it was.

    Args:
        image_set: images and labels.
        seed: seed of the weights, the batches and the dropout.
        steps: optimiser steps instead of the rule above.

    Raises:
        DataError: images too small for the network, or a class that cannot be split.
    """
    train, held_out = image_set.split()
    images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    batch = min(_BATCH, len(train))
    steps = steps or max(400, 5 * len(train) // batch)
    channels, height, width = (int(size) for size in images.shape[1:])
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier((channels, height, width), image_set.classes, image_set.name)
        optimizer = torch.optim.AdamW(classifier.parameters(), _RATE, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.2)
        rows = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(rows) < batch:
                rows = torch.randperm(len(train))
            chosen, rows = rows[:batch], rows[batch:]
            loss = cross_entropy(classifier(images[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    classifier.eval()
    features, _ = classifier.read(train.images)
    classifier.scale.fill_(math.sqrt(features.var(axis=0).mean()) or 1.0)
    classifier.held_out_accuracy = metrics.logit_accuracy(
        classifier.read(held_out.images)[1], held_out.labels
    )
    return classifier


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for PyTorch inside: sums in one order, so equal bits on machines and workers of any thread count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
