"""The parts of the real-images experiment: which curves each measures."""

import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jax.typing import ArrayLike
from ml_collections import ConfigDict
from real_presets import guide_steps
from real_scores import Scorer
from real_training import Budget, train

from cfg_jax import (
    files,
    generation,
    guidance,
    models,
    rules,
    sampling,
    trained,
)
from cfg_jax.training import (
    step as train_step,
    workdirs as workdir_lib,
)

NOISE_W = (0.0, 1.0, 4.0)  # where a second seed says how much chance there is
INTERVALS = ((0.28, 2.9), (0.6, 5.0))  # of noise levels: EDM2-S's, best FID and best FD-DINOv2
RADII = (2.2, 6.5)  # of projected guidance: where 64x64x3 pixels have the published RMS per element
P_UNCOND = (0.1, 0.2, 0.5)
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)
INDEX = 'parts.json'

Report = Callable[[str], None]


class Bench(NamedTuple):
    """What every part works with.

    Attributes:
      config: of the main model, with the w of the sweep.
      root: of the experiment; the main model is in ROOT/model.
      step: of the main model's checkpoint.
      weights: w of the comparisons.
      load: load(path) -> the config of another network at the same size.
      scorer: measures curves.
      budget: for the trainings of parts.
      report: receives lines of progress.
    """

    config: ConfigDict
    root: epath.Path
    step: int
    weights: tuple[float, ...]
    load: Callable[[str], ConfigDict]
    scorer: Scorer
    budget: Budget
    report: Report

    def directory(self) -> str:
        """Where curves of this step and number of samples lie, under ROOT/sweep."""
        return f'step_{self.step}-n{self.config.sweep.num_samples}'

    def curve(
        self,
        slug: str,
        name: str,
        weights: Sequence[float] = (),
        rule: rules.Rule | None = None,
        passes: float = 2.0,
        **settings: Any,
    ) -> str:
        """Measures a curve of the main model, by classifier-free guidance or another rule.

        Returns its slug.
        """
        config = self.changed(weights or self.weights, **settings)
        model = trained.TrainedModel(self.root / 'model', config, rule)
        self.keep(slug, name, model, passes)
        return slug

    def keep(self, slug: str, name: str, model: trained.Model, passes: float = 2.0) -> None:
        """Measures a curve of any model, see `Scorer.curve`."""
        self.scorer.curve(f'{self.directory()}/{slug}', name, model, passes)

    def changed(self, weights: Sequence[float], **settings: Any) -> ConfigDict:
        """The config with other w and other settings of its group `sampling`."""
        config = self.config.copy_and_resolve_references()
        config.sampler.update(settings)
        config.sweep.w = tuple(weights)
        return config


def measure(bench: Bench, part: str) -> None:
    """Measures a part, and notes the slugs of its curves in INDEX."""
    slugs = PARTS[part](bench)
    path = bench.root / 'sweep' / bench.directory() / INDEX
    held = files.read_json(path) if path.exists() else {}
    files.write_json(path, held | {part: slugs})


def _sweep(bench: Bench) -> list[str]:
    """(a) The paper's w; beside it, for scale, a second seed and the network before training."""
    slug = _at_steps(bench, bench.config.sampler.num_steps, bench.config.sweep.w)
    other = bench.changed(NOISE_W)
    other.sweep.seed += 1
    model = trained.TrainedModel(bench.root / 'model', other)
    bench.keep('seed', f'seed {other.sweep.seed}', model)
    untrained = Untrained(bench.changed((0.0,)))
    bench.keep('untrained', 'untrained network', untrained)
    bench.scorer.floor(bench.config)
    return [slug]


def _steps(bench: Bench) -> list[str]:
    """(b) The paper's sampler at twice the steps against a tenth of its passes, two ways."""
    many = 2 * bench.config.sampler.num_steps
    few = max(2, round(many / 10))
    return [
        _at_steps(bench, many),
        _at_steps(bench, few),
        bench.curve(f'ddim-T{few}', f'DDIM, T = {few}', sampler='ddim', num_steps=few),
    ]


def _numbers_of_steps(bench: Bench) -> list[str]:
    """(d) Half, once and twice the steps."""
    steps = bench.config.sampler.num_steps
    return [
        _at_steps(bench, max(2, steps // 2)),
        _at_steps(bench, steps),
        _at_steps(bench, 2 * steps),
    ]


def _at_steps(bench: Bench, steps: int, weights: Sequence[float] = ()) -> str:
    """The paper's rule and sampler on the main model."""
    name = f'p_uncond = {bench.config.p_uncond:g}, T = {steps}'
    return bench.curve(f'T{steps}', name, weights, num_steps=steps)


def _p_uncond(bench: Bench) -> list[str]:
    """(c) Models of other p_uncond, trained as long as the main one."""
    own, steps = bench.config.p_uncond, bench.config.sampler.num_steps
    slugs = [_at_steps(bench, steps)]
    for value in P_UNCOND:
        workdir = bench.root / f'p_uncond_{value:g}'
        config = bench.config.copy_and_resolve_references()
        config.p_uncond, config.train.steps = value, bench.step
        if value == own or not train(config, workdir, bench.budget, bench.report):
            continue
        config.sweep.w = bench.weights
        slugs.append(f'p_uncond_{value:g}')
        name = f'p_uncond = {value:g}, T = {steps}'
        bench.keep(slugs[-1], name, trained.TrainedModel(workdir, config))
    return slugs


def _rules(bench: Bench) -> list[str]:
    """(e) Guidance in an interval, projected guidance, autoguidance by two guides."""
    network, null_label = models.make_unet(bench.config).apply, bench.config.data.num_classes
    slugs = [_at_steps(bench, bench.config.sampler.num_steps)]
    for low, high in INTERVALS:
        rule = rules.ClassifierFreeInInterval(network, null_label, low, high)
        name, passes = f'interval ({low:g}, {high:g}]', 1.0 + share_inside(bench.config, low, high)
        slugs.append(bench.curve(f'interval_{low:g}_{high:g}', name, rule=rule, passes=passes))
    for radius in RADII:
        rule = rules.Projected(network, null_label, eta=0.0, radius=radius)
        name = f'APG, eta = 0, r = {radius:g}, no momentum'
        slugs.append(bench.curve(f'apg_{radius:g}', name, rule=rule))
    guides = {'earlier': _earlier(bench), 'small': _small_guide(bench)}
    for kind, workdir in guides.items():
        if workdir is None:
            bench.report(f'autoguidance by the {kind} guide waits: it is not trained yet')
            continue
        config = bench.changed(bench.weights)
        slugs.append(f'autoguidance_{kind}')
        model = trained.AutoguidedModel(bench.root / 'model', workdir, config)
        bench.keep(slugs[-1], f'autoguidance by the {kind} guide', model)
    return slugs


def share_inside(config: ConfigDict, lowest: float, highest: float) -> float:
    """Share of a trajectory's levels that an interval of noise levels (lowest, highest] holds."""
    levels = sampling.logsnr_levels(
        config.sampler.num_steps, config.diffusion.logsnr_min, config.diffusion.logsnr_max
    )
    first, end = (guidance.logsnr_of_noise_level(level) for level in (highest, lowest))
    return float(np.mean((first <= levels) & (levels < end)))


def _earlier(bench: Bench) -> epath.Path | None:
    """A work directory with the main model's kept checkpoint nearest to the guide's steps."""
    model, workdir = bench.root / 'model', bench.root / 'earlier'
    kept = [int(path.name) for path in (model / 'checkpoints').iterdir() if path.name.isdigit()]
    before = [step for step in kept if step < bench.step]
    if not before:
        return None
    step = min(before, key=lambda step: abs(step - guide_steps(bench.step)))
    if not (workdir / 'checkpoints' / str(step)).exists():
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(model / 'checkpoints' / str(step), workdir / 'checkpoints' / str(step))
        shutil.copy(model / workdir_lib.CONFIG, workdir / workdir_lib.CONFIG)
    return workdir


def _small_guide(bench: Bench) -> epath.Path | None:
    config = bench.load('configs/tiny_imagenet64_guide.py')
    config.train.steps = guide_steps(bench.step)
    workdir = bench.root / 'guide'
    return workdir if train(config, workdir, bench.budget, bench.report) else None


def _classifier(bench: Bench) -> list[str]:
    """(f) Classifier guidance of the conditional and of the unconditional model."""
    slugs = [_at_steps(bench, bench.config.sampler.num_steps)]
    workdir = bench.root / 'classifier'
    config = bench.load('configs/tiny_imagenet64_classifier.py')
    if not train(config, workdir, bench.budget, bench.report):
        return slugs
    for conditional in (True, False):
        base = 'conditional' if conditional else 'unconditional'
        chosen = bench.changed(SCALES if conditional else (0.0, *SCALES))
        model = trained.ClassifierGuidedModel(
            bench.root / 'model', workdir, chosen, form='mean', conditional=conditional
        )
        slugs.append(f'classifier_{base}')
        bench.keep(slugs[-1], f'classifier on the {base} model', model, passes=1)
    return slugs


PARTS: dict[str, Callable[[Bench], list[str]]] = {
    'sweep': _sweep,
    'steps': _steps,
    'p_uncond': _p_uncond,
    'T': _numbers_of_steps,
    'rules': _rules,
    'classifier': _classifier,
}


class Untrained:
    """The network before its first step, as a `trained.Model`."""

    def __init__(self, config: ConfigDict):
        self.config = config
        self._generator = generation.make_generator(config)
        self._params = train_step.create_state(config).ema_params

    def generate(self, seed: int, indices: ArrayLike, labels: ArrayLike, w: ArrayLike):
        """See `trained.Model`."""
        return self._generator(self._params, seed, np.asarray(indices), np.asarray(labels), w)

    def provenance(self) -> dict[str, Any]:
        """See `trained.Model`."""
        return {'checkpoint_step': 0, 'weights': 'initial', 'seed_of_weights': self.config.seed}
