"""What the tests of the loop ask of a work directory, and do with it."""

import json
import shutil


def metric_rows(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def copy_at_step_3(run, directory):
    """A copy of a finished run as if it had been killed after step 3."""
    shutil.copytree(run, directory)
    shutil.rmtree(directory / 'checkpoints' / '6')
    shutil.rmtree(directory / 'samples')
    return directory
