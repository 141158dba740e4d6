"""One of the processes of test_multihost.py: trains, sweeps, and trains on under another name.

python two_processes.py COORDINATOR NUM_PROCESSES PROCESS_ID WORKDIR
"""

import contextlib
import os
import sys

from support import make_tiny_config, optimise_feature_classifier, toy_instead_of_networks

from cfg_jax import console
from cfg_jax.distributed import multihost
from cfg_jax.evaluation import sweep
from cfg_jax.metrics.features import classifier
from cfg_jax.training import loop


def main(coordinator, num_processes, process_id, workdir):
    multihost.start(coordinator, int(num_processes), int(process_id))
    optimise_feature_classifier()
    classifier._EPOCHS = 5  # good enough, in a thirtieth of the time
    # train.adam_eps: at its usual size the first steps' tiny gradients are divided by themselves,
    # and rounding decides their signs.
    config = make_tiny_config(
        model__channel_mult=(1,),
        model__attention_resolutions=(),
        train__steps=20,
        train__adam_eps=1e-3,
        train__checkpoint_every=5,
        train__keep_checkpoints=9,
    )
    # The true U-Net takes minutes to compile in each process.
    slow = os.environ.get('CFG_JAX_SLOW')
    with contextlib.nullcontext() if slow else toy_instead_of_networks():
        loop.train(config, workdir)
        sweep.run(config, workdir, name='tiny')
        config.update({'train': {'start_from': workdir, 'steps': 5}})
        loop.train(config, os.path.join(workdir, 'branch'))


if __name__ == '__main__':
    with console.log_shown():
        main(*sys.argv[1:])
