"""The Frechet distance between Gaussians: FVD on I3D features, FID on Inception features."""

import numpy as np


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Returns the squared 2-Wasserstein distance between two Gaussians, which FVD and FID report.

        |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a^1/2 C_b C_a^1/2)^1/2)

    This is the distance of Heusel et al. (2017, arXiv 1706.08500, eq 6). The last trace is computed
    as the sum of the singular values of C_b^1/2 C_a^1/2. The square root of C_a C_b would be
    inaccurate: for singular covariances (fewer videos than features), rounding makes its
    eigenvalues negative or complex. All arguments are cast to float64.

    Args:
      mean_a: mean of the first Gaussian, [features].
      covariance_a: its covariance, symmetric, [features, features].
      mean_b: mean of the second Gaussian, [features].
      covariance_b: its covariance, symmetric, [features, features].

    Returns:
      The distance, at least 0, in squared units of the features.

    Raises:
      ValueError: shapes do not match, values are not finite, or a covariance is not symmetric or
        has a negative eigenvalue beyond rounding.
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
    # Rounding may give a negative value for equal Gaussians.
    return max(0.0, float(np.sum((means[0] - means[1]) ** 2) + traces - 2 * overlap))


def _root(matrix: np.ndarray) -> np.ndarray:
    """Returns the symmetric square root of a positive semi-definite matrix."""
    if not np.isfinite(matrix).all():
        raise ValueError("a covariance has values that are not finite")
    if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-9 * np.abs(matrix).max()):
        raise ValueError("a covariance is not symmetric")
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < -1e-6 * max(values[-1], 0) - 1e-12:
        raise ValueError(f"a covariance has the negative eigenvalue {values[0]:g}")
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
