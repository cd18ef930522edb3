from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import ot
import pytest
import torch
from prdc import compute_prdc
from safetensors.torch import load_file, save_file

from noria.core.errors import CheckpointError, DataError
from noria.distill.data.images import ImageSet, digits
from noria.distill.data.mnist import mnist
from noria.distill.evaluation.classifier import FEATURES, Classifier, train_classifier
from noria.distill.evaluation.metrics import frechet_distance
from noria.distill.evaluation.points import Undefined
from noria.distill.evaluation.reference import Reference, evaluate_samples

torch.set_num_threads(1)
REAL_MNIST = Path(__file__).parents[2] / ".data" / "mnist"


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return digits()


@pytest.fixture(scope="module")
def classifier(data: ImageSet) -> Classifier:
    return train_classifier(data, seed=0)


@pytest.fixture(scope="module")
def reference(classifier: Classifier, data: ImageSet) -> Reference:
    return Reference.of(classifier, data.split()[0].balanced())


@pytest.fixture(scope="module")
def held_out(data: ImageSet) -> ImageSet:
    return data.split()[1].balanced()


# --- the classifier -----------------------------------------------------------------------------------------


def test_held_out_digits_are_recognised_after_seconds_on_one_core(
    data: ImageSet, classifier: Classifier
) -> None:
    held = data.split()[1]
    logits = classifier(torch.from_numpy(held.images)).argmax(dim=1).numpy()
    assert classifier.held_out_accuracy == (logits == held.labels).mean()
    start = time.process_time()
    other = train_classifier(data, seed=1)
    assert time.process_time() - start <= 30  # three on a quiet core
    assert min(classifier.held_out_accuracy, other.held_out_accuracy) >= 0.97


@pytest.mark.slow
@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="real MNIST is not here (make data)")
def test_held_out_mnist_is_recognised_after_a_minute_on_one_core() -> None:
    start = time.process_time()
    assert train_classifier(mnist(REAL_MNIST), seed=0).held_out_accuracy >= 0.975
    assert time.process_time() - start <= 240  # fifty on a quiet core


def test_the_same_seed_gives_the_same_bits_at_any_number_of_threads(data: ImageSet) -> None:
    def bits(seed: int, threads: int) -> tuple[dict[str, bytes], bytes]:
        torch.set_num_threads(threads)
        try:
            made = train_classifier(data, seed, steps=8)
            features = made.read(data.images[:700])[0].tobytes()
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
        return {name: tensor.numpy().tobytes() for name, tensor in made.state_dict().items()}, features

    random.seed(1)
    torch.manual_seed(99)  # nor does the state of the process count
    first = bits(0, 1)
    assert bits(0, 2) == first
    assert bits(1, 1)[0] != first[0]


def test_training_leaves_the_random_state_of_the_process_as_it_was(data: ImageSet) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_classifier(data, seed=0, steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_features_have_unit_variance_over_the_training_images_and_feed_the_logits(
    data: ImageSet, classifier: Classifier
) -> None:
    train = data.split()[0]
    features, logits = classifier.read(train.images)
    assert features.shape == (len(train), FEATURES)
    assert features.dtype == np.float64
    assert features.var(axis=0).mean() == pytest.approx(1, rel=1e-5)
    inner = classifier.head(torch.from_numpy(features).float() * classifier.scale)
    np.testing.assert_allclose(inner.detach().numpy(), logits, atol=1e-4)
    tensor = torch.from_numpy(train.images)
    np.testing.assert_allclose(classifier.features(tensor).detach().numpy(), features, atol=1e-4)


def test_training_images_are_no_nearer_to_each_other_than_held_out_ones_are(
    data: ImageSet, classifier: Classifier
) -> None:
    # A classifier that knows its images by heart would make real, unseen images look generated.
    train, held = data.split()
    part = np.zeros(len(train), dtype=bool)
    for number in range(10):
        part[np.flatnonzero(train.labels == number)[: (held.labels == number).sum()]] = True
    rest, seen, unseen = (
        classifier.read(x)[0] for x in (train.images[~part], train.images[part], held.images)
    )
    assert frechet_distance(unseen, rest) < 1.6 * frechet_distance(seen, rest)


def test_reading_leaves_the_mode_and_the_gradients_alone(classifier: Classifier, data: ImageSet) -> None:
    images = torch.from_numpy(data.images[:20])
    classifier.train()
    first, second = classifier.read(images), classifier.read(images)
    assert classifier.training
    classifier.eval()
    np.testing.assert_array_equal(first[1], second[1])  # no dropout
    assert images.grad_fn is None


def test_a_saved_classifier_reads_the_same_bits(
    tmp_path: Path, classifier: Classifier, data: ImageSet
) -> None:
    classifier.save(tmp_path / "c.safetensors")
    other = Classifier.load(tmp_path / "c.safetensors")
    for a, b in zip(classifier.read(data.images), other.read(data.images), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (other.shape, other.classes, other.data) == ((1, 8, 8), 10, "digits")
    assert other.held_out_accuracy == classifier.held_out_accuracy
    assert not other.training
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_an_untrained_classifier_has_no_accuracy_and_still_saves(tmp_path: Path) -> None:
    Classifier((3, 32, 32), 5).save(tmp_path / "c.safetensors")
    other = Classifier.load(tmp_path / "c.safetensors")
    assert math.isnan(other.held_out_accuracy)
    assert other.read(np.zeros((2, 3, 32, 32)))[1].shape == (2, 5)


def damaged(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "text":
        path.write_bytes(b"not a classifier at all")
    elif how == "absent":
        path.unlink()
    elif how == "other":
        save_file({"x": torch.zeros(1)}, path)
    elif how == "tensor":
        tensors = load_file(path)
        del tensors["embed.bias"]
        about = '{"shape": [1, 8, 8], "classes": 10, "data": "", "held_out_accuracy": 1}'
        save_file(tensors, path, {"format": "noria image classifier 1", "classifier": about})
    else:
        save_file(load_file(path), path, {"format": "noria image classifier 1", "classifier": how})


NO_CLASSIFIERS = [
    "cut",
    "text",
    "absent",
    "other",
    "tensor",
    "{",
    "[]",
    '{"shape": [1, 8]}',
    '{"shape": [1, 9000, 8], "classes": 2}',
    '{"shape": [1, 8, 8], "classes": 10, "surprise": 1}',
    '{"shape": [1, 28, 28], "classes": 10}',
]


@pytest.mark.parametrize("how", NO_CLASSIFIERS)
def test_what_is_no_classifier_is_one_line(tmp_path: Path, classifier: Classifier, how: str) -> None:
    path = tmp_path / "c.safetensors"
    classifier.save(path)
    damaged(path, how)
    with pytest.raises(DataError if how == "absent" else CheckpointError) as error:
        Classifier.load(path)
    assert str(error.value).startswith(f"{path}: ")


def test_images_of_another_size_are_refused(classifier: Classifier) -> None:
    for shape in ((5, 1, 28, 28), (5, 8, 8), (0, 1, 8, 8)):
        with pytest.raises(DataError, match="classifier"):
            classifier.read(np.zeros(shape))
    with pytest.raises(DataError, match="4 to 512 pixels"):
        Classifier((1, 3, 3), 10)


# --- measuring ----------------------------------------------------------------------------------------------


def test_every_metric_is_what_an_independent_library_says(reference: Reference, held_out: ImageSet) -> None:
    rng = np.random.default_rng(0)
    samples = np.clip(held_out.images + 0.2 * rng.standard_normal(held_out.images.shape), -1, 1).astype(
        np.float32
    )
    scores = evaluate_samples(samples, held_out.labels, reference)
    features, logits = reference.classifier.read(samples)
    peer = compute_prdc(reference.features, features, nearest_k=5)
    assert {name: scores[name] for name in peer} == pytest.approx(
        {name: float(v) for name, v in peer.items()}
    )
    ma, mb = reference.moments, (features.mean(axis=0), np.cov(features, rowvar=False))
    bures = ot.gaussian.bures_wasserstein_distance(ma.mean, mb[0], ma.covariance, mb[1]) ** 2
    assert scores["frechet"] == pytest.approx(float(bures), rel=1e-4)
    assert scores["accuracy"] == pytest.approx((logits.argmax(axis=1) == held_out.labels).mean())
    real = digits().split()[0].balanced().images.reshape(len(reference.features), -1).astype(np.float64)
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    sliced = ot.sliced_wasserstein_distance(flat, real, projections=reference.directions)
    assert scores["sliced_wasserstein"] == pytest.approx(float(sliced), rel=1e-9)
    assert scores["std_ratio"] == pytest.approx(flat.std() / real.std(), rel=1e-12)


def test_the_reference_is_at_no_distance_from_itself(reference: Reference, data: ImageSet) -> None:
    train = data.split()[0].balanced()
    scores = evaluate_samples(train.images, train.labels, reference)
    assert scores["frechet"] == pytest.approx(0, abs=1e-9)
    assert scores["sliced_wasserstein"] == 0
    perfect = ("precision", "recall", "density", "coverage", "modes")
    assert {name: scores[name] for name in perfect} == dict.fromkeys(perfect, 1.0)
    assert scores["std_ratio"] == 1
    assert scores["saturation"] == 0
    assert scores["accuracy"] > 0.99


def score(reference: Reference, samples: Any, held_out: ImageSet) -> dict[str, float]:
    return evaluate_samples(samples, held_out.labels, reference)


def test_each_fault_of_a_generator_shows_where_it_should(
    reference: Reference, held_out: ImageSet, data: ImageSet
) -> None:
    rng = np.random.default_rng(0)
    train = data.split()[0]
    real = score(reference, held_out.images, held_out)
    assert real["accuracy"] > 0.96
    assert real["modes"] == 1
    assert min(real["precision"], real["recall"]) > 0.9

    # one picture a class: all of it right, none of it varied
    means = np.stack([train.images[train.labels == number].mean(axis=0) for number in held_out.labels])
    collapsed = score(reference, means, held_out)
    assert collapsed["precision"] == 1
    assert collapsed["recall"] < 0.05
    assert collapsed["coverage"] < 0.1
    assert collapsed["modes"] <= 0.3
    assert collapsed["frechet"] > 5 * real["frechet"]

    # two classes drawn as others: seen by the labels and the modes
    lost = held_out.images.copy()
    lost[held_out.labels == 3], lost[held_out.labels == 4] = (lost[held_out.labels == n] for n in (5, 6))
    dropped = score(reference, lost, held_out)
    assert dropped["accuracy"] == pytest.approx(real["accuracy"] - 0.2, abs=0.02)
    assert dropped["modes"] == pytest.approx(0.8, abs=0.03)
    assert dropped["recall"] < real["recall"] - 0.1

    # noise on top grows every distance, step by step
    noise = rng.standard_normal(held_out.images.shape)
    grades = [score(reference, held_out.images + level * noise, held_out) for level in (0, 0.2, 0.4, 0.8)]
    for name in ("frechet", "sliced_wasserstein", "std_ratio"):
        assert sorted(grade[name] for grade in grades) == [grade[name] for grade in grades], name

    # too much contrast: clipping hides it from the pictures, not from the last two
    loud = score(reference, held_out.images * 1.5, held_out)
    assert loud["std_ratio"] == pytest.approx(1.5 * real["std_ratio"], rel=1e-6)
    assert loud["saturation"] > 0.5
    assert loud["frechet"] == score(reference, np.clip(held_out.images * 1.5, -1, 1), held_out)["frechet"]


def test_samples_come_as_arrays_or_tensors(reference: Reference, held_out: ImageSet) -> None:
    tensors = torch.from_numpy(held_out.images).requires_grad_(), torch.from_numpy(held_out.labels)
    assert evaluate_samples(*tensors, reference) == score(reference, held_out.images, held_out)


def test_without_labels_the_accuracy_is_undefined_and_the_rest_stands(
    reference: Reference, held_out: ImageSet
) -> None:
    scores = evaluate_samples(held_out.images, None, reference)
    undefined = {name: value.reason for name, value in scores.items() if isinstance(value, Undefined)}
    assert undefined == {"accuracy": "no labels were asked for"}
    assert sum(math.isnan(value) for value in scores.values()) == 1


def test_samples_that_cannot_be_measured_are_errors(reference: Reference, held_out: ImageSet) -> None:
    images, labels = held_out.images.copy(), held_out.labels
    with pytest.raises(DataError, match="too few points: 5, and 6 are needed"):
        evaluate_samples(images[:5], labels[:5], reference)
    with pytest.raises(DataError, match=r"a classifier of \[n, 1, 8, 8\]"):
        evaluate_samples(np.zeros((9, 1, 9, 9)), labels[:9], reference)
    with pytest.raises(DataError, match="predictions for 3 labels"):
        evaluate_samples(images, labels[:3], reference)
    with pytest.raises(DataError, match="labels: a label outside 0 to 9"):
        evaluate_samples(images, labels + 1, reference)
    images[7, 0, 3, 3] = math.nan
    with pytest.raises(DataError, match=r"samples: 1 of \d+ values are NaN or infinite, the first in row 7"):
        evaluate_samples(images, labels, reference)


def test_the_reference_has_four_modes_a_class_and_is_the_same_every_time(
    reference: Reference, classifier: Classifier, data: ImageSet
) -> None:
    assert reference.centres.shape == (40, FEATURES)
    assert reference.shares.sum() == pytest.approx(1)
    again = Reference.of(classifier, data.split()[0].balanced())
    for name in ("features", "radii", "directions", "projections", "centres", "shares"):
        np.testing.assert_array_equal(getattr(reference, name), getattr(again, name))
