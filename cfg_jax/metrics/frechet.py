"""The Frechet distance of two sets of features as Gaussians: FID and its spatial form, sFID."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from cfg_jax.metrics import Inputs, Value, given
from cfg_jax.metrics.influence import frechet_influence
from cfg_jax.metrics.statistics import Gaussian, Moments, root


def fid(inputs: Inputs) -> Value:
    """The Frechet distance of the pooled features; the standard error takes the reference as
    exact."""
    return _value(inputs, np.asarray(inputs.samples.pooled), inputs.reference.pooled)


def sfid(inputs: Inputs) -> Value:
    """The same of the spatial features."""
    features = np.asarray(given(inputs.samples.spatial, 'spatial'))
    return _value(inputs, features, given(inputs.reference.spatial, 'spatial'))


def _value(inputs: Inputs, features: Float[np.ndarray, 'n d'], reference: Gaussian) -> Value:
    moments = Moments.of_many(features)
    distance = frechet_distance(moments.gaussian(), reference)
    if not inputs.replicates:
        return Value(distance)
    influence = frechet_influence(features, moments, reference, inputs.strata)
    return Value(distance, error=influence.standard_error(), influence=influence)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """FID = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017), never < 0.

    tr (S_a S_b)^(1/2) is the sum of the singular values of R_a^T R_b with S = R R^T: real, finite
    and free of square roots of rounding errors, for singular covariances too.
    """
    return distance_from(b)(a)


def distance_from(reference: Gaussian) -> Callable[[Gaussian], float]:
    """`frechet_distance` from one reference, whose root is computed once."""
    root_of_reference = root(reference.sigma)

    def distance(other: Gaussian) -> float:
        product = root(other.sigma).T @ root_of_reference
        trace_root = np.linalg.svd(product, compute_uv=False).sum()
        delta = other.mu - reference.mu
        traces = np.trace(other.sigma) + np.trace(reference.sigma)
        return float(max(delta @ delta + traces - 2.0 * trace_root, 0.0))

    return distance
