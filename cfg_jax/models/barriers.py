"""Identities that say to XLA what is computed when."""

from typing import Any

import jax


def computed_again(arrays: Any) -> Any:
    """The same arrays, from which accelerators compute anew what was computed of them before.

    XLA computes once what is used twice, and keeps it in memory in between where that is more
    than one kernel; elementwise operations are cheaper there than their results. On CPUs they are
    not, and nothing is computed again.
    """
    barrier = jax.lax.optimization_barrier
    return jax.lax.platform_dependent(arrays, cpu=lambda arrays: arrays, default=barrier)


def computed_once(arrays: Any) -> Any:
    """The same arrays, which accelerators write to memory once for all that use them.

    XLA for TPUs would compute elementwise operations again for each of their users, long ones too.
    """
    return computed_again(arrays)


@jax.custom_jvp
def together(arrays: Any) -> Any:
    """The same arrays, whose gradients GPUs compute at one time.

    TPUs need not be told, and would no longer make the sums that group norm takes of a gradient
    while a convolution computes it.
    """
    return arrays


@together.defjvp
def _together(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    barrier = jax.lax.optimization_barrier
    choices = {'cuda': barrier, 'rocm': barrier, 'default': lambda arrays: arrays}
    return together(*primals), jax.lax.platform_dependent(*tangents, **choices)
