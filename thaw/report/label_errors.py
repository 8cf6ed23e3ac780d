"""Labels that are likely wrong, by confident learning.

Northcutt, Jiang and Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels, arXiv:1911.00068,
section 3.1: a class's threshold is the mean probability that its own images get for it, and an image whose
probability reaches the threshold of another class counts as one of that class.
"""

import numpy as np
from numpy.typing import NDArray


def label_errors(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    label_probability: NDArray[np.float64],
    probability: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the positions of images whose label is likely wrong, the largest contradiction first.

    For each image its label, the class that the model names, and the model's probabilities of the two. The model must
    not have been trained on these images. Listed is an image that gets less than the threshold for its label, and at
    least the threshold for the class that the model names instead. Ordered by the difference of the probabilities.
    """
    if not len(labels):
        return np.zeros(0, np.int64)
    num_classes = int(max(labels.max(), predicted.max())) + 1
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, label_probability, num_classes)
    thresholds = np.divide(sums, counts, out=np.full(num_classes, np.inf), where=counts > 0)
    doubtful = (predicted != labels) & (label_probability < thresholds[labels]) & (probability >= thresholds[predicted])
    found = np.flatnonzero(doubtful)
    return found[np.argsort(label_probability[found] - probability[found], kind="stable")]
