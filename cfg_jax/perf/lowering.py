"""A model's trajectory, to be compiled for devices that need not be here."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cfg_jax.distributed import devices
from cfg_jax.inference import Model


def lower_trajectory(
    model: Model, params: Mapping[str, Any], count: int, guided: bool, machine: devices.Machine
) -> jax.stages.Lowered:
    """The trajectory of `count` images.

    Args:
      model: whose; its own parameters are not used.
      params: as `Model.generate` takes them, or their shapes.
      count: images of all devices of a process together.
      guided: with weights, or as for w = 0.
      machine: whose.
    """

    def rows(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *shape), dtype)

    example = model.conditioning.example()
    condition = jax.tree.map(lambda a: rows(a.shape[1:], a.dtype), example)
    seed = jax.ShapeDtypeStruct((), np.uint32)
    arguments = [params, seed, rows((), np.uint32), condition, None]
    arguments += [rows((), np.float32)] if guided else []
    mapped = devices.map_rows(model.device_images, 2, len(arguments) - 2, machine)
    return mapped.lower(*arguments)
