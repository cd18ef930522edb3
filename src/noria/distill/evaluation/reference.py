"""Every metric of a set of samples against real images, in the features of a classifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from noria.distill.data.images import ImageSet
from noria.distill.evaluation import metrics
from noria.distill.evaluation.classifier import Classifier
from noria.distill.evaluation.metrics import Moments
from noria.distill.evaluation.modes import k_means_modes, mode_coverage, mode_shares, nearest_mode
from noria.distill.evaluation.neighbours import knn_radii, manifold_scores
from noria.distill.evaluation.points import Array, Floats

__all__ = ["Reference", "evaluate_samples"]


#  ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference that samples are compared with, computed once.

    Attributes:
        classifier: network that gives the features.
        features: features of the reference images, [n, 64].
        moments: mean and covariance of those features.
        radii: radii of their neighbourhoods, [n].
        neighbours: k of precision, recall, density and coverage.
        directions: directions of the sliced Wasserstein distance, [pixels, count]; the same for all samples.
        projections: pixels of the reference along them, sorted, [n, count].
        std: standard deviation of all pixels.
        centres: centres of the modes in feature space, [modes, 64].
        shares: share of the reference in each mode, [modes].
    """

    classifier: Classifier
    features: Floats
    moments: Moments
    radii: Floats
    neighbours: int
    directions: Floats
    projections: Floats
    std: float
    centres: Floats
    shares: Floats

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        images: ImageSet,
        *,
        neighbours: int = 5,
        directions: int = 256,
        modes_per_class: int = 4,
        seed: int = 0,
    ) -> Reference:
        """Measure `images`.

        Samples are compared with the set's own class shares. For samples drawn evenly over classes give
        `images.balanced()`: else the difference of the shares is part of every distance.

        Args:
            classifier: trained on images of this kind.
            images: real images, at least `neighbours` + 1.
            neighbours: k of the nearest-neighbour scores.
            directions: projections of the sliced Wasserstein distance.
            modes_per_class: k-means clusters in each class's features that mode coverage asks for.
            seed: seed of directions and clusters.

        Raises:
            DataError: images of another size than the classifier's, or too few.
        """
        features, _ = classifier.read(images.images)
        pixels = images.images.reshape(len(images), -1).astype(np.float64)
        lines = metrics.random_directions(pixels.shape[1], directions, np.random.default_rng(seed))
        centres = k_means_modes(features, images.labels, modes_per_class, seed)
        return cls(
            classifier,
            features,
            metrics.moments(features),
            knn_radii(features, neighbours),
            neighbours,
            lines,
            np.sort(pixels @ lines, axis=0),
            metrics.spread(pixels),
            centres,
            mode_shares(nearest_mode(features, centres), len(centres)),
        )


def evaluate_samples(samples: Array, labels: Array | None, reference: Reference) -> dict[str, float]:
    """Every metric of `samples` [n, channels, height, width] against the reference.

    Samples are clipped to [−1, 1], as writing them to a picture would, for all but the last two, which look at the
    contrast that clipping hides.

        frechet             Fréchet distance of the features (0 is best; depends on n, so compare equal n only)
        precision, recall   share of samples in the reference's feature manifold, and the reverse
        density, coverage   the same, robust against outliers (about 1 and 1 are best)
        accuracy            share of samples that the classifier sees as their label
        sliced_wasserstein  of the pixels, over the reference's fixed directions
        modes               share of the reference's modes that get at least a quarter of their share
        std_ratio           spread of the pixels over the reference's
        saturation          share of pixels beyond [−1, 1]

    Args:
        samples: generated images; more than the reference's `neighbours`.
        labels: wanted classes [n]; None where none were wanted.
        reference: reference to compare with.

    Returns:
        A number each; an `Undefined` (a NaN with its reason) for accuracy without labels, for modes with fewer
        samples than modes, and for the ratio to a constant reference.

    Raises:
        DataError: samples with a NaN or an infinity, of another size, too few, or labels that do not fit.
    """
    std, beyond = metrics.spread(samples, "samples"), metrics.saturation(samples)
    shown = torch.as_tensor(samples).detach().float().clamp(-1, 1).cpu().numpy()
    features, logits = reference.classifier.read(shown)
    manifold = manifold_scores(
        reference.features, features, reference.neighbours, reference_radii=reference.radii
    )
    pixels = shown.reshape(len(shown), -1).astype(np.float64)
    lines = np.sort(pixels @ reference.directions, axis=0)
    nearest = nearest_mode(features, reference.centres)
    return {
        "frechet": metrics.frechet_distance(features, reference.moments),
        **manifold._asdict(),
        "accuracy": metrics.logit_accuracy(logits, labels),
        "sliced_wasserstein": float(np.sqrt(metrics.line_costs(lines, reference.projections, 2).mean())),
        "modes": mode_coverage(nearest, reference.shares),
        "std_ratio": metrics.ratio(std, reference.std),
        "saturation": beyond,
    }
