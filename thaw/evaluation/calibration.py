"""Probabilities from logits, and the one temperature that makes their confidence honest."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

_LOG_BOUNDS = (float(np.log(0.05)), float(np.log(20)))


def log_probabilities(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return log softmax(logits / temperature), [images, classes], in nats."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled


def probabilities(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return softmax(logits / temperature), [images, classes]; each row sums to 1 up to rounding."""
    return np.exp(log_probabilities(logits, temperature))


def uncalibrated(calibrated: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return the probabilities [images, classes] from before a temperature was applied."""
    with np.errstate(divide="ignore"):  # a probability that was rounded to 0 stays 0
        return probabilities(np.log(calibrated), 1 / temperature)


def sample_losses(
    logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0
) -> NDArray[np.float64]:
    """Return each image's log loss in nats, [images]."""
    return -log_probabilities(logits, temperature)[np.arange(len(labels)), labels]


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Return the temperature, 0.05 to 20, under which the labels are likeliest (Guo et al. 2017, section 4.2).

    A standard normal prior on its logarithm, worth less than a nat in the sum of all losses, keeps a few images that
    happen to be all right from claiming certainty; on hundreds of images it changes nothing that matters. The loss of
    these images at the temperature returned is never above that at 1.
    """

    def cost(log_temperature: float) -> float:
        total = float(sample_losses(logits, labels, float(np.exp(log_temperature))).sum())
        return total + log_temperature**2 / 2

    found = minimize_scalar(cost, bounds=_LOG_BOUNDS, method="bounded", options={"xatol": 1e-8})
    # With the prior the cost may have two valleys, and the search end in the shallower one.
    return float(np.exp(found.x)) if found.fun < cost(0.0) else 1.0
