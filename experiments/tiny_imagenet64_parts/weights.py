"""A trained model as one small file, for machines that keep nothing: EMA weights in half precision.

With them its step and its metrics. Training that starts from it continues with the data where it
was; optimiser and EMA start again, and the learning rate warms up again.
"""

import contextlib
import json

import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import files
from cfg_jax.distributed import devices
from cfg_jax.errors import UserError
from cfg_jax.training import (
    checkpoints,
    step as train_step,
    workdirs as workdir_lib,
    writers,
)

_RECORD = 'record'


def save(path: epath.PathLike, config: ConfigDict, workdir: epath.Path) -> None:
    """Writes the EMA parameters of the newest checkpoint as float16, their step and the metrics.

    Raises:
      UserError: no complete checkpoint.
    """
    like = jax.eval_shape(lambda: train_step.create_state(config)).ema_params
    params, step = checkpoints.restore_ema(workdir, like)
    arrays = {
        jax.tree_util.keystr(place): np.asarray(leaf, np.float16)
        for place, leaf in jax.tree.leaves_with_path(params)
    }
    record = {'step': step, 'metrics': writers.read_metrics(workdir)}
    files.write_npz(path, arrays | {_RECORD: np.array(json.dumps(record))})


def load(path: epath.PathLike, config: ConfigDict, workdir: epath.Path) -> None:
    """Makes a work directory with a checkpoint of the step and the parameters in `path`.

    A work directory that is there is left alone.

    Raises:
      UserError: no such file, or not of this network.
    """
    path = files.as_path(path)
    if (workdir / workdir_lib.CONFIG).exists():
        logging.info('%s exists already; %s is not read', workdir, path)
        return
    if not path.is_file():
        raise UserError(f'no weights at {path}; --weights_out writes such a file')
    with files.damage_reported(path, 'give a file that --weights_out wrote'):
        arrays = files.read_npz(path)
        record = json.loads(str(arrays.pop(_RECORD))) if _RECORD in arrays else {}
    state = train_step.create_state(config)
    places = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state.params)]
    leaves = jax.tree.leaves(state.params)
    wrong = [
        place
        for place, leaf in zip(places, leaves, strict=True)
        if place not in arrays or arrays[place].shape != leaf.shape
    ]
    if not record or wrong or len(arrays) != len(places):
        raise UserError(f'{path} holds weights of another network than {config.model.to_dict()}')
    params = jax.tree.unflatten(
        jax.tree.structure(state.params), [np.asarray(arrays[p], np.float32) for p in places]
    )
    copies = jax.tree.map(np.copy, params)
    step = record['step']
    state = state.replace(step=np.int32(step), params=params, ema_params=copies)
    workdir = workdir_lib.create_or_validate_workdir(config, workdir)
    with checkpoints.Checkpoints(workdir) as saved:
        problem = (
            saved.save(step, jax.device_put(state, devices.replicated()), {'next_batch': step})
            or saved.wait()
        )
    with contextlib.closing(writers.MetricWriter(workdir)) as writer:
        for row in record['metrics']:
            writer.write(row['step'], {key: row[key] for key in row if key != 'step'})
    if problem:
        raise UserError(f'{problem}; make room and run the same command again')
    logging.info('%s starts from the weights of step %d in %s', workdir, step, path)
