"""Sweeps to make pages of: the tiny model's, with rows of known numbers."""

import json
import shutil

# So far apart that the pictures of a hardly trained model differ.
WEIGHTS = (0.0, 1.0, 4.0, 16.0, 64.0)


def sweep_with_rows(swept_workdir, root, name='run', weights=WEIGHTS, shift=0.0):
    """A copy of the swept tiny run whose sweep has a row of invented metrics at each weight."""
    workdir = root / name
    shutil.copytree(swept_workdir, workdir)
    path = workdir / 'sweep' / 'tiny' / 'results.json'
    results = json.loads(path.read_text())
    results['rows'] = [row(w, shift) for w in weights]
    path.write_text(json.dumps(results))
    return workdir


def row(w, shift=0.0):
    """The trade-off's shape: FID and IS rise, recall falls."""
    return {
        'w': w,
        'fid': 5.0 + 12.0 * w + shift,
        'fid_se': 0.5,
        'is': 10.0 - 0.1 / (1.0 + 10.0 * w),
        'is_se': 0.01,
        'precision': 0.8 + 0.1 * w / (w + 3.0),
        'recall': 0.9 - 0.5 * w / (w + 3.0),
        'class_agreement': 0.99,
        'nfe': 4 if w == 0 else 8,
    }
