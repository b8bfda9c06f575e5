"""The Frechet distance between Gaussians: FVD and FID, by the features they are of."""

import numpy as np


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """The squared 2-Wasserstein distance between two Gaussians, FVD's and FID's definition.

        |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a^1/2 C_b C_a^1/2)^1/2)

    The last trace is the sum of the singular values of C_b^1/2 C_a^1/2: no root is taken of a
    product, whose eigenvalues rounding makes negative or complex where a covariance is singular, as
    it is of fewer videos than features.

    Args:
      mean_a: [features].
      covariance_a: [features, features], symmetric; computed with in float64, as all of them are.
      mean_b: as mean_a.
      covariance_b: as covariance_a.

    Raises:
      ValueError: shapes that do not fit, values that are not finite, or a covariance that is not
        symmetric or has a negative eigenvalue beyond rounding.
    """
    means = [np.asarray(mean, np.float64) for mean in (mean_a, mean_b)]
    covariances = [np.asarray(matrix, np.float64) for matrix in (covariance_a, covariance_b)]
    features = means[0].shape
    for mean, covariance in zip(means, covariances, strict=True):
        if len(features) != 1 or mean.shape != features or covariance.shape != features * 2:
            raise ValueError(
                f"means of shape {means[0].shape} and {means[1].shape} do not fit covariances of "
                f"shape {covariances[0].shape} and {covariances[1].shape}"
            )
    roots = [_root(matrix) for matrix in covariances]
    overlap = np.linalg.svd(roots[1] @ roots[0], compute_uv=False).sum()
    traces = np.trace(covariances[0]) + np.trace(covariances[1])
    # Rounding may leave the distance of equal Gaussians a little below 0.
    return max(0.0, float(np.sum((means[0] - means[1]) ** 2) + traces - 2 * overlap))


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    if not np.isfinite(matrix).all():
        raise ValueError("a covariance has values that are not finite")
    if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-9 * np.abs(matrix).max()):
        raise ValueError("a covariance is not symmetric")
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < -1e-6 * max(values[-1], 0) - 1e-12:
        raise ValueError(f"a covariance has the negative eigenvalue {values[0]:g}")
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
