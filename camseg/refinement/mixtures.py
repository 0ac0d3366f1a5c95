"""Colours -> Mixture: the Gaussian mixtures of GrabCut, in loops compiled by numba (import this lazily)."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float = NDArray[np.float64]

SINGULAR = 1e-6
"""A covariance whose determinant does not exceed this is singular, as where all colours are equal or grey."""
NOISE = 0.01
"""The variance added in each channel of a singular covariance."""


class Mixture(NamedTuple):
    """K Gaussians over colours, by what their densities are computed from."""

    weights: Float
    """(K,): log of the share of each."""
    norms: Float
    """(K,): log of the density at the mean, without the constant 2 pi."""
    means: Float
    """(K, 3)."""
    precisions: Float
    """(K, 3, 3): inverse covariances."""


def fit_mixture(colors: NDArray[np.uint8], component: NDArray[np.integer], components: int) -> Mixture:
    """The maximum-likelihood mixture of colours (N, 3), each in one of so many components; empty ones are left out."""
    moments = _moments(colors, component, components).astype(np.float64)
    moments = moments[moments[:, 0] > 0]
    count = moments[:, :1]
    means = moments[:, 1:4] / count
    second = (moments[:, 4:] / count)[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    covariances = second - means[:, :, None] * means[:, None, :]
    covariances[np.linalg.det(covariances) <= SINGULAR] += NOISE * np.eye(3)
    return Mixture(
        weights=np.log(count[:, 0] / len(colors)),
        norms=-0.5 * np.log(np.linalg.det(covariances)),
        means=means,
        precisions=np.linalg.inv(covariances),
    )


@njit(nogil=True, cache=True)
def _moments(colors, component, components):
    # Integers: the sums are exact in any order.
    moments = np.zeros((components, 10), np.int64)  # count, first and second moments
    for i in range(len(colors)):
        r, g, b = np.int64(colors[i, 0]), np.int64(colors[i, 1]), np.int64(colors[i, 2])
        row = moments[component[i]]
        row[0] += 1
        row[1] += r
        row[2] += g
        row[3] += b
        row[4] += r * r
        row[5] += r * g
        row[6] += r * b
        row[7] += g * g
        row[8] += g * b
        row[9] += b * b
    return moments


@njit(nogil=True, cache=True)
def _log_densities(colors, mixture):
    """The log of each component's density at each of the colours, whatever its weight: (K, N)."""
    densities = np.empty((len(mixture.norms), len(colors)))
    for k in range(len(mixture.norms)):
        red, green, blue = mixture.means[k, 0], mixture.means[k, 1], mixture.means[k, 2]
        norm, p = mixture.norms[k], mixture.precisions[k]
        rr, gg, bb, rg, rb, gb = -0.5 * p[0, 0], -0.5 * p[1, 1], -0.5 * p[2, 2], -p[0, 1], -p[0, 2], -p[1, 2]
        for i in range(len(colors)):
            r, g, b = colors[i, 0] - red, colors[i, 1] - green, colors[i, 2] - blue
            densities[k, i] = norm + r * (rr * r + rg * g + rb * b) + g * (gg * g + gb * b) + bb * b * b
    return densities


def likeliest_component(colors: NDArray[np.uint8], mixture: Mixture) -> NDArray[np.intp]:
    """The component of highest density at each of the colours, uint8 (N, 3), whatever its weight; (N,)."""
    return _log_densities(colors, mixture).argmax(axis=0)


@njit(nogil=True, cache=True)
def log_likelihood(colors, mixture):
    """The log of the mixture's density at each of the colours, uint8 (N, 3); finite, float64 (N,)."""
    densities = _log_densities(colors, mixture)
    likelihood = np.empty(len(colors))
    for i in range(len(colors)):
        best = -np.inf
        for k in range(len(densities)):
            densities[k, i] += mixture.weights[k]
            best = max(best, densities[k, i])
        total = 0.0
        for k in range(len(densities)):
            total += math.exp(densities[k, i] - best)
        likelihood[i] = best + math.log(total)
    return likelihood
