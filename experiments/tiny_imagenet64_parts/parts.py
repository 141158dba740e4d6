"""The parts of the real-images experiment: which curves each measures."""

import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import files, loading
from cfg_jax.inference import Model
from cfg_jax.training import checkpoints, step as train_step, workdirs as workdir_lib
from tiny_imagenet64_parts.budget import Budget, train
from tiny_imagenet64_parts.rows import Curves
from tiny_imagenet64_parts.sizes import guide_steps

NOISE_W = (0.0, 1.0, 4.0)  # where a second seed says how much chance there is
INTERVALS = ((0.28, 2.9), (0.6, 5.0))  # of noise levels: EDM2-S's, best FID and best FD-DINOv2
RADII = (2.2, 6.5)  # of projected guidance: where 64x64x3 pixels have the published RMS per element
P_UNCOND = (0.1, 0.2, 0.5)
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)
INDEX = 'parts.json'


class Bench(NamedTuple):
    """What every part works with.

    Attributes:
      config: of the main model, with the w of the sweep.
      root: of the experiment; a main model that is trained here is in ROOT/model.
      model: the main model as an exported file, which is what is measured.
      trained: whether that is what ROOT/model trained.
      step: of its checkpoint.
      weights: w of the comparisons.
      load: load(variant) -> the config of another network at the same size.
      guide: a model for autoguidance, in the place of an earlier checkpoint of the main one.
      branch_steps: of branches from the main model.
      curves: measures them.
      budget: for the trainings of parts.
    """

    config: ConfigDict
    root: epath.Path
    model: epath.Path
    trained: bool
    step: int
    weights: tuple[float, ...]
    load: Callable[[str], ConfigDict]
    guide: str
    branch_steps: int
    curves: Curves
    budget: Budget

    def directory(self) -> str:
        """Where curves of this step and number of samples lie, under ROOT/sweep."""
        return f'step_{self.step}-n{self.config.sweep.num_samples}'

    def curve(
        self,
        slug: str,
        title: str,
        weights: Sequence[float] = (),
        guidance: str = '',
        network: epath.PathLike = '',
        **sampler: Any,
    ) -> str:
        """Measures a curve of the main model and returns its slug.

        Args:
          slug: of its directory.
          title: for people.
          weights: w; those of the comparisons for ().
          guidance, network: a rule and its other network, see `loading.load`.
          sampler: settings of the config's group `sampler`.
        """
        config = self.changed(weights or self.weights, **sampler)
        model = loading.load(
            self.model,
            config=config,
            guidance=guidance,
            guidance_network=network,
        )
        self.keep(slug, title, model)
        return slug

    def keep(self, slug: str, title: str, model: Model) -> None:
        """Measures a curve of any model, see `Curves.curve`."""
        self.curves.curve(f'{self.directory()}/{slug}', title, model)

    def changed(self, weights: Sequence[float], **sampler: Any) -> ConfigDict:
        """The config with other w and other settings of its group `sampler`, and with the training
        that the main model had, whatever the command says of others."""
        config = self.config.copy_and_resolve_references()
        config.train = loading.read_config(self.model).train
        config.sampler.update(sampler)
        config.sweep.w = tuple(weights)
        return config


def measure(bench: Bench, part: str) -> None:
    """Measures a part, and notes the slugs of its curves in INDEX."""
    slugs = PARTS[part](bench)
    path = bench.root / 'sweep' / bench.directory() / INDEX
    held = files.read_or_set_aside(path, files.read_json) or {}
    files.write_json(path, held | {part: slugs})


def _sweep(bench: Bench) -> list[str]:
    """(a) The paper's w; for scale, a second seed and the network before training."""
    slug = _at_steps(bench, bench.config.sampler.num_steps, bench.config.sweep.w)
    other = bench.changed(NOISE_W)
    other.sweep.seed += 1
    model = loading.load(bench.model, config=other)
    bench.keep('seed', f'seed {other.sweep.seed}', model)
    bench.keep('untrained', 'untrained network', untrained(bench.changed((0.0,))))
    bench.curves.floor(bench.config)
    return [slug]


def _steps(bench: Bench) -> list[str]:
    """(b) The config's sampler against a quarter of its NFE, two ways."""
    many = bench.config.sampler.num_steps
    few = max(2, many // 4)
    return [
        _at_steps(bench, many),
        _at_steps(bench, few),
        bench.curve(f'ddim-T{few}', f'DDIM, T = {few}', name='ddim', num_steps=few),
    ]


def _numbers_of_steps(bench: Bench) -> list[str]:
    """(d) A quarter, half and all of the steps."""
    steps = bench.config.sampler.num_steps
    return [_at_steps(bench, max(2, steps // share)) for share in (4, 2, 1)]


def _at_steps(bench: Bench, steps: int, weights: Sequence[float] = ()) -> str:
    """The paper's rule and the config's sampler on the main model."""
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
        if value == own or not train(config, workdir, bench.budget):
            continue
        config.sweep.w = bench.weights
        slugs.append(f'p_uncond_{value:g}')
        name = f'p_uncond = {value:g}, T = {steps}'
        bench.keep(slugs[-1], name, loading.load(workdir, config=config))
    return slugs


def _branches(bench: Bench) -> list[str]:
    """(c) for less: each p_uncond for a few steps from the main model's weights, its own as well,
    which is trained as long so. The learning rate falls to 0, and the average forgets the weights
    of the start."""
    slugs, count = [], bench.branch_steps
    for value in P_UNCOND:
        slug = f'branch_{value:g}-annealed_{count}'
        workdir = bench.root / f'{slug}-from_{bench.step}'
        config = bench.config.copy_and_resolve_references()
        config.p_uncond, config.sweep.w = value, bench.weights
        config.train.update(steps=count, start_from=str(files.absolute(bench.model)))
        average = min(config.train.ema_decay, max(0.0, 1.0 - 4.0 / count))
        config.train.update(anneal_steps=count, ema_decay=average)
        if not train(config, workdir, bench.budget):
            continue
        slugs.append(slug)
        name = f'p_uncond = {value:g} for {count:,} steps more, T = {config.sampler.num_steps}'
        bench.keep(slug, name, loading.load(workdir, config=config))
    return slugs


def _rules(bench: Bench) -> list[str]:
    """(e) Guidance in an interval, projected guidance, autoguidance by two guides."""
    slugs = [_at_steps(bench, bench.config.sampler.num_steps)]
    for low, high in INTERVALS:
        rule = f'interval:lowest={low},highest={high}'
        name = f'interval ({low:g}, {high:g}]'
        slugs.append(bench.curve(f'interval-{low:g}-{high:g}', name, guidance=rule))
    for radius_of_64 in RADII:
        radius = radius_of_64 * bench.config.data.image_size / 64  # the same RMS per element
        rule = f'projected:eta=0,radius={radius}'
        name = f'APG, eta = 0, r = {radius:g}, no momentum'
        slugs.append(bench.curve(f'projected-{radius:g}', name, guidance=rule))
    guide = {'given': bench.guide} if bench.guide else {'earlier': _earlier(bench)}
    guides = guide | {'small': _small_guide(bench)}
    for kind, workdir in guides.items():
        if workdir is None:
            logging.info('autoguidance by the %s guide waits: it is not trained yet', kind)
            continue
        name = f'autoguidance by the {kind} guide'
        rule = {'guidance': 'autoguidance', 'network': workdir}
        slugs.append(bench.curve(f'autoguidance_{kind}', name, **rule))
    return slugs


def _earlier(bench: Bench) -> epath.Path | None:
    """A work directory with the main model's kept checkpoint nearest to the guide's steps."""
    model, workdir = bench.root / 'model', bench.root / 'earlier'
    kept = checkpoints.kept_steps(model) if bench.trained else []
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
    config = bench.load('guide')
    config.train.steps = guide_steps(bench.step)
    workdir = bench.root / 'guide'
    return workdir if train(config, workdir, bench.budget) else None


def _classifier(bench: Bench) -> list[str]:
    """(f) Classifier guidance of the conditional and of the unconditional model."""
    slugs = [_at_steps(bench, bench.config.sampler.num_steps)]
    workdir = bench.root / 'classifier'
    config = bench.load('classifier')
    if not train(config, workdir, bench.budget):
        return slugs
    for conditional in (True, False):
        base = 'conditional' if conditional else 'unconditional'
        name = f'classifier on the {base} model'
        weights = SCALES if conditional else (0.0, *SCALES)
        rule = f'classifier_mean:conditional={conditional}'
        slugs.append(bench.curve(f'classifier_{base}', name, weights, rule, workdir))
    return slugs


PARTS: dict[str, Callable[[Bench], list[str]]] = {
    'sweep': _sweep,
    'steps': _steps,
    'p_uncond': _p_uncond,
    'branches': _branches,
    'T': _numbers_of_steps,
    'rules': _rules,
    'classifier': _classifier,
}


def untrained(config: ConfigDict) -> Model:
    """The network before its first step."""
    params = {'main': train_step.create_state(config).ema_params}
    provenance = {'checkpoint_step': 0, 'weights': 'initial', 'seed_of_weights': config.seed}
    return Model(config, params, provenance=provenance)
