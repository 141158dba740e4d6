"""A trained model: what a work directory holds, ready to generate."""

import jax
import numpy as np
from etils import epath
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from cfg_jax import checkpoints, files, generation, parallel, train_step, workdir
from cfg_jax.errors import UserError


class TrainedModel:
    """The newest checkpoint of a work directory, with its EMA parameters on every device.

    Args:
      path: the work directory.
      config: how to sample; by default the config it was trained with.

    Raises:
      UserError: not a work directory, or no complete checkpoint in it.
    """

    def __init__(self, path: epath.PathLike, config: ConfigDict | None = None):
        self.config = config or workdir.read_config(path)
        state = jax.eval_shape(lambda: train_step.create_state(self.config))
        params, self.step = checkpoints.restore_ema(path, state.ema_params)
        self._params = jax.device_put(params, parallel.replicated())
        self._generator = generation.make_generator(self.config)

    def generate(self, seed: int, indices: ArrayLike, labels: ArrayLike, w: ArrayLike) -> jax.Array:
        """See `generation.Generator`.

        Raises:
          UserError: a label out of range.
        """
        last = self.config.data.num_classes - 1
        outside = [int(label) for label in np.asarray(labels) if not 0 <= label <= last]
        if outside:
            raise UserError(f'the label {outside[0]} is out of range; classes are 0..{last}')
        return self._generator(self._params, seed, indices, labels, w)

    def weights_sha256(self) -> str:
        """Hash of the EMA parameters."""
        leaves = jax.tree.leaves_with_path(jax.device_get(self._params))
        return files.sha256_of_arrays({jax.tree_util.keystr(p): leaf for p, leaf in leaves})
