"""How far it is from the sweep command to the guided eps, for whoever reads or debugs it."""

import shutil
import traceback
from pathlib import Path

from support import ROOT, make_tiny_config, run_here

from cfg_jax.guidance.classifier_free import ClassifierFree
from cfg_jax.metrics.features import classifier
from cfg_jax.training import loop

OURS = tuple(f'{ROOT / folder}/' for folder in ('cfg_jax', 'scripts'))


def test_frames_from_the_sweep_command_to_the_guided_eps(
    toy_networks, tmp_path, capfd, monkeypatch
):
    """At most 9 frames of ours, in at most 6 files, strictly between them."""
    stacks, combine = [], ClassifierFree.combine

    def recorded(self, *args):
        stacks.append(
            [frame for frame in traceback.extract_stack() if frame.filename.startswith(OURS)]
        )
        return combine(self, *args)

    monkeypatch.setattr(ClassifierFree, 'combine', recorded)
    monkeypatch.setattr(classifier, '_EPOCHS', 1)
    loop.train(make_tiny_config(train__sample_every=10), tmp_path / 'run')
    stacks.clear()  # of training's pictures
    arguments = f'--model={tmp_path / "run"}', '--w=1', '--num_samples=20', '--bootstrap=0'
    status, _, errors = run_here(capfd, 'scripts/sweep.py', *arguments)
    assert (status, errors) == (0, [])
    for stack in stacks:
        (start,) = [
            i
            for i, frame in enumerate(stack)
            if Path(frame.filename).name == 'sweep.py' and frame.name == 'main'
        ]
        between = stack[start + 1 :]
        described = '\n'.join(f'{frame.filename}:{frame.name}' for frame in between)
        assert between, 'the frames were recorded'
        assert len(between) <= 9, described
        assert len({frame.filename for frame in between}) <= 6, described
    assert stacks
    shutil.rmtree(tmp_path / 'run')
