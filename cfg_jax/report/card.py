"""The model card of an exported file: what it is, how it was trained, how to sample, how good."""

import math
import shlex
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import files, model_checks
from cfg_jax.data import class_names
from cfg_jax.evaluation import results as results_lib, tables
from cfg_jax.models import role as role_of
from cfg_jax.settings import make_rule
from cfg_jax.training import export

NAME = 'MODEL_CARD.md'
_MOST_CLASSES = 200
_CONVENTION = """\
| | formula | unguided | the paper's "w = 3" |
|---|---|---|---|
| w, here and in the paper | `eps = (1 + w) eps_cond - w eps_uncond` | w = 0 | w = 3 |
| s, in most other codebases | `eps = eps_uncond + s (eps_cond - eps_uncond)` | s = 1 | s = 4 |
"""


def write(
    exported: epath.PathLike,
    params: Any,
    config: ConfigDict,
    metadata: dict[str, Any],
    sweeps: list[dict[str, Any]],
) -> epath.Path:
    """Writes MODEL_CARD.md beside an exported file.

    A card that is there for another file is kept; the new one is then named after its own.

    Args:
      exported: the file.
      params, config, metadata: what is in it, see `export.write`.
      sweeps: results.json of sweeps of these weights.

    Returns:
      Where the card is.
    """
    exported = files.as_path(exported)
    path = exported.parent / NAME
    title = f'# {exported.name}\n'
    if path.exists() and not path.read_bytes().startswith(title.encode()):
        path = exported.with_suffix(f'.{NAME}')
    sections = [title, _what(params, config), _training(config, metadata)]
    if 'class_names' in metadata:
        sections.append(_classes(metadata['class_names']))
    if role_of(config.model.kind) == 'denoiser':
        sections += [_sampling(exported.name, config), _metrics(sweeps)]
    sections.append(_identity(metadata))
    files.write_bytes(path, '\n'.join(sections).encode())
    return path


def sweeps_of(workdir: epath.PathLike, weights_sha256: str) -> list[dict[str, Any]]:
    """The readable results.json of a work directory's sweeps of these weights, by name."""
    found = []
    for path in sorted(files.as_path(workdir).glob('sweep/*/results.json')):
        try:
            results = files.read_json(path, keys=['rows', 'sampler', 'features', 'num_samples'])
        except files.Damaged:
            continue  # the card does without what the next sweep makes again
        if results.get('weights_sha256') == weights_sha256 and results['rows']:
            found.append(results | {'name': path.parent.name})
    return found


def _what(params: Any, config: ConfigDict) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    network = f'in JAX, a `{config.model.kind}` of {count:,} parameters'
    role = role_of(config.model.kind)
    if role == 'decoder':
        return (
            f'A decoder {network}, which makes images of latents of {config.latent.channels}'
            ' channels.\n'
        )
    data = config.data
    size = f'{data.image_size}x{data.image_size}, {data.channels} channels'
    what = 'A diffusion model' if role == 'denoiser' else 'A classifier of noisy images'
    name = _without_folders(data.name, 2)
    line = f'{what} {network}, for images of `{name}` ({size}; {data.num_classes} classes).\n'
    return line + _task(config) if role == 'denoiser' else line


def _without_folders(path: str, kept: int) -> str:
    """The last components of a path, for those before are of one machine alone."""
    kind, colon, place = path.rpartition(':') if path.startswith('folder:') else ('', '', path)
    return kind + colon + '/'.join(place.rstrip('/').split('/')[-kept:])


def _task(config: ConfigDict) -> str:
    """What a diffusion model predicts, and its condition."""
    settings = config.diffusion
    low, high = settings.logsnr_min, settings.logsnr_max
    predicts = (
        f'`{config.target}` under the schedule `{settings.schedule}`, log-SNR {low:g} to {high:g}'
    )
    if settings.get('preconditioning') == 'edm':
        lowest, highest = math.exp(-0.5 * high), math.exp(-0.5 * low)
        predicts = (
            f"the image, behind EDM's preconditioning, noise levels {lowest:.3g} to {highest:.3g}"
        )
    trained = f'It predicts {predicts}, and was trained with the condition `{config.condition}`'
    if not config.get('p_uncond', 0.0):  # published models do not say
        return f'{trained}.\n'
    return (
        f'{trained} dropped at p_uncond = {config.p_uncond:g}'
        ' for classifier-free guidance ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598)).\n'
    )


def _training(config: ConfigDict, metadata: dict[str, Any]) -> str:
    if 'train' not in config:
        return f'## How it was trained\n\nElsewhere. {_origin(metadata.get("source", {}))}\n'
    train, step = config.train, metadata['step']
    starts = [
        f'started from the weights of step {each["checkpoint_step"]:,} in'
        f' `{_without_folders(each["path"], 1)}` ({each["images"]:,} images, SHA-256'
        f' `{each["weights_sha256"]}`)'
        for each in metadata.get('starts', ())
    ]
    before = f' It {", which ".join(starts)}.' if starts else ''
    weights = metadata.get('weights', export.EMA)
    average = f'an average of the parameters that was made after training: {weights}'
    if weights == export.EMA:
        average = f'the exponential moving average of the parameters, decay {train.ema_decay:g}'
    return (
        f'## How it was trained\n\n{step:,} steps of batch {train.batch_size:,}'
        f' ({step * train.batch_size:,} images of the split `{config.data.split}`),'
        f' {train.optimizer.capitalize()} at a'
        f' learning rate of {train.learning_rate:g} after {train.warmup_steps:,} steps of warm-up,'
        f' seed {config.seed}. The weights are {average}.{before} The whole config is in the'
        ' file.\n'
    )


def _origin(source: dict[str, Any]) -> str:
    """What identifies the published file that a model was imported from, and its licence."""
    if not source:
        return 'The file does not say where.'
    return (
        f'It was imported from `{source["file"]}`, {source["family"]} of <{source["origin"]}>,'
        f' SHA-256 `{source["file_sha256"]}`.\n\n**Licence of the weights**: {source["licence"]}.'
    )


def _classes(names: Sequence[str]) -> str:
    """Ids and names, as far as a reader may like to see them."""
    shown = class_names.readable(names)[:_MOST_CLASSES]
    listed = ', '.join(f'{number} {name}' for number, name in enumerate(shown))
    more = ', ...' if len(names) > _MOST_CLASSES else ''
    return f'## Classes\n\n{listed}{more}\n'


def _sampling(name: str, config: ConfigDict) -> str:
    labels = list(range(min(3, config.data.num_classes)))
    listed = ','.join(map(str, labels))
    usual = 'As trained' if 'train' in config else 'By default'
    # An example that works: not every network can be guided by its own rule.
    rule = make_rule(config)
    w = next((w for w in (1.0, 0.0) if model_checks.refusal(rule, config, w) is None), -1.0)
    latent = 'latent' in config
    option = ' --decoder=DECODER.safetensors' if latent else ''
    argument = ", decoder='DECODER.safetensors'" if latent else ''
    return (
        '## How to sample\n\n```\n'
        f'python scripts/sample.py --model={shlex.quote(name)}{option} --labels={listed} --w={w}'
        ' --out=grid.png\n'
        '```\n\n```python\nimport cfg_jax\n\n'
        f'model = cfg_jax.load({name!r}{argument})\n'
        f'images = model.sample({labels}, w={w}, seed=0)  # uint8 [{len(labels)}, H, W, C]\n'
        '```\n\n'
        f'{usual} it samples with `{config.guidance.rule}`, `{config.sampler.name}`,'
        f' T = {config.sampler.num_steps}; `guidance=`, `sampler=` and `num_steps=` change'
        ' that.\n\n'
        f'{_CONVENTION}'
    )


def _metrics(sweeps: list[dict[str, Any]]) -> str:
    if not sweeps:
        return '## Metrics\n\nNo sweep of these weights was there when the file was written.\n'
    return '## Metrics\n\n' + '\n'.join(map(_table, sweeps))


def _table(results: dict[str, Any]) -> str:
    sampler = results_lib.comparable(dict(results))['sampler']  # in today's names
    features = results['features']
    reference = results.get('reference', {})
    protocol = [
        f'{results.get("guidance", "classifier-free guidance")}, `{sampler["name"]}`, T ='
        f' {sampler["num_steps"]}, {results["num_samples"]:,} samples a row, labels'
        f' {results.get("labels")}, seeds {results.get("seeds")}',
        f'features: {features["name"]}, SHA-256 `{features.get("sha256")}`',
        f'reference: {reference.get("num_images", "?")} images of'
        f' `{reference.get("dataset", reference.get("file"))}`'
        f' ({reference.get("split", "")}), SHA-256 `{reference.get("sha256")}`',
        *results.get('notes', ()),
    ]
    lines = '\n'.join(f'* {line}' for line in protocol)
    table = tables.sweep_table(results['rows'])
    meaning = tables.meaning_of_errors(results['rows'])
    meaning = f'{meaning}.\n\n' if meaning else ''
    return f'### {results["name"]}\n\n{table}\n{meaning}{lines}\n'


def _identity(metadata: dict[str, Any]) -> str:
    versions = ', '.join(f'{k} {v}' for k, v in metadata['versions'].items())
    # A published file does not say its step.
    step = '' if 'source' in metadata else f'* checkpoint step {metadata["step"]}\n'
    return (
        f'## What identifies it\n\n{step}* SHA-256 of the'
        f' parameters `{metadata["weights_sha256"]}`; loading checks it\n'
        f'* format `{export.FORMAT}`\n* written with {versions}\n'
        '* the terms of the data that it was trained on hold for it\n'
    )
