"""What the tests of sweeps read in a work directory."""

import json

from cfg_jax import files


def results_of(workdir, name='tiny'):
    return json.loads((workdir / 'sweep' / name / 'results.json').read_text())


def shards_of(workdir, name, w):
    """The shards of one w, as dictionaries of arrays."""
    paths = sorted((workdir / 'sweep' / name / 'shards').glob(f'w_{w}_*.npz'))
    return [files.read_npz(path) for path in paths]
