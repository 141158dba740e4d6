"""What the page shows of each run, as plain values for its JSON."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cfg_jax import config as config_lib, loading, registry
from cfg_jax.evaluation import differences, results as results_lib, tables
from cfg_jax.evaluation.rows import Row
from cfg_jax.report import pictures as pictures_lib
from cfg_jax.report.pictures import Pictures
from cfg_jax.report.runs import Run
from cfg_jax.samplers import SAMPLERS
from cfg_jax.training import export

_BIN = re.compile(r'loss_logsnr_(?P<low>[-+.\d]+)_(?P<high>[-+.\d]+)')
_CURVES = ('loss', 'grad_norm')
_POINTS = 400  # of a curve
_WITHOUT_FLAG = ('v', 'clip')  # settings of samplers
# Two sweeps compare where these agree.
_PROTOCOL = ('dataset', 'num_samples', 'labels', 'rounding', 'is_splits', 'seed')


def of_run(run: Run, pictures: Pictures | None) -> dict[str, Any]:
    """Everything of one run; `pictures` is None where they could not be drawn."""
    results = run.results
    return {
        'name': run.name,
        'about': _about(results),
        'metrics': _metrics(results['rows']),
        'errors': tables.meaning_of_errors(results['rows']),
        'rows': [table_row(row, results['rows']) for row in results['rows']],
        'notes': [*results.get('notes', ()), *differences.sentences(results.get('best', {}))],
        'training': training_curves(run.training),
        'cost': _cost(run, pictures),
        'provenance': _provenance(run),
        'config': results['config'],
        'sampling': _sampling(run),
        'sets': [_set(each) for each in pictures.sets] if pictures else [],
        'columns': pictures_lib.COLUMNS,
    }


def incomparable(runs: Sequence[Run]) -> list[str]:
    """What makes the numbers of several runs incomparable: a sentence for each setting."""
    if len(runs) < 2:
        return []
    # In today's names; what later came has the value of before.
    recorded = [
        results_lib.comparable(run.results) | {'is_splits': run.results.get('is_splits')}
        for run in runs
    ]
    settings = {name: [each.get(name) for each in recorded] for name in _PROTOCOL if name != 'seed'}
    settings['features'] = [run.results['features'].get('sha256') for run in runs]
    settings['reference'] = [run.results.get('reference', {}).get('sha256') for run in runs]
    return [
        f'The runs differ in {name} ({", ".join(map(_short, values))}): their metrics do not'
        ' compare.'
        for name, values in settings.items()
        if any(value != values[0] for value in values)
    ]


def _metrics(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {
            'key': key,
            'heading': tables.heading(key),
            'higher': tables.higher_is_better(key),
        }
        for key in tables.metric_keys(rows[0])
    ]


def table_row(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """One row of the table: values, errors, texts, and which of them are the best."""
    keys = tables.metric_keys(rows[0])
    return {
        'w': row['w'],
        's': f'{1 + row["w"]:g}',
        'nfe': row.get('nfe'),
        'values': {key: _finite(row.get(key)) for key in keys},
        'errors': {key: _finite(row.get(f'{key}_se')) for key in keys},
        'cells': {key: tables.cell(key, row) for key in keys},
        'best': [key for key in keys if tables.is_best(key, row, rows)],
    }


def training_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Steps, curves, and the loss of each bin of log-SNR, of some of many rows and the last."""
    if not rows:
        return None
    every = -(-len(rows) // _POINTS)
    rows = rows[::-1][::every][::-1]
    names = dict.fromkeys(name for row in rows for name in row)
    bins = [match for name in names if (match := _BIN.fullmatch(name))]
    return {
        'steps': [row['step'] for row in rows],
        'curves': {
            name: [_finite(row.get(name)) for row in rows] for name in _CURVES if name in names
        },
        'bins': [
            {
                'title': f'{float(match["low"]):g} to {float(match["high"]):g}',
                'values': [_finite(row.get(match[0])) for row in rows],
            }
            for match in bins
        ],
    }


def _about(results: Mapping[str, Any]) -> str:
    sampler = results_lib.comparable(dict(results))['sampler']  # in today's names
    guidance = config_lib.from_json(results['config']).guidance
    return (
        f'{results.get("dataset", "")}: {_spec(guidance.rule, guidance.options)},'
        f' {sampler["name"]}, T = {sampler["num_steps"]}, {results["num_samples"]:,} samples a row,'
        f' features: {results["features"]["name"]}'
    )


def _spec(name: str, *options: str) -> str:
    """'NAME:OPTION=VALUE,...' of a rule or a sampler, as flags take it."""
    return ':'.join(filter(None, (name, ','.join(filter(None, options)))))


def _cost(run: Run, pictures: Pictures | None) -> list[tuple[str, str]]:
    results = run.results
    device = results.get('device', {})
    nfe = sorted({row['nfe'] for row in results['rows'] if row.get('nfe')})
    lines = [
        ('levels T', f'{results["sampler"]["num_steps"]:,}'),
        ('network evaluations an image (NFE)', ' or '.join(f'{n:,}' for n in nfe)),
        (
            'device of the sweep',
            f'{device.get("count", "")} x {device.get("kind", "")}'.strip(' x'),
        ),
    ]
    last = results.get('checkpoint_step') or math.inf  # it may have been trained on since
    trained = [r for r in run.training if r.get('images_per_second') and r['step'] <= last]
    if trained:
        seconds = sum(_seconds(row, before) for before, row in zip([{}, *trained], trained))  # noqa: B905
        lines += [
            ('training', f'{trained[-1]["step"]:,} steps, {trained[-1]["images_seen"]:,} images'),
            ('training speed, last reported', f'{trained[-1]["images_per_second"]:,.0f} images/s'),
            ('training time, steps alone', _time(seconds)),
        ]
    if pictures:
        count = sum(each.sheets.shape[0] * each.sheets.shape[1] for each in pictures.sets)
        text = f'{count:,} images in {_time(pictures.seconds)}, compilation included'
        lines.append(('drawing the pictures of this page', text))
    return [(name, text) for name, text in lines if text]


def _seconds(row: Mapping[str, Any], before: Mapping[str, Any]) -> float:
    return (row['images_seen'] - before.get('images_seen', 0)) / row['images_per_second']


def _time(seconds: float) -> str:
    if seconds < 120:
        return f'{seconds:.0f} s'
    if seconds < 7200:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.1f} h'


def _provenance(run: Run) -> list[tuple[str, str]]:
    results = run.results
    device = results.get('device', {})
    lines = {
        'sweep': str(run.directory),
        'model': str(run.model or 'not beside the sweep'),
        'checkpoint step': results.get('checkpoint_step'),
        'parameters': results.get('weights'),
        'SHA-256 of the parameters': results['weights_sha256'],
        'guidance': results.get('guidance', 'classifier_free'),
        'features': results['features'].get('name'),
        'SHA-256 of the features': results['features'].get('sha256'),
        'SHA-256 of the reference': results.get('reference', {}).get('sha256'),
        'seeds': ', '.join(map(str, results.get('seeds', ()))),
        'convention': results.get('convention'),
        'platform': device.get('platform'),
        'versions': ', '.join(f'{k} {v}' for k, v in results.get('versions', {}).items()),
    }
    return [(name, str(value)) for name, value in lines.items() if value not in (None, '')]


def _sampling(run: Run) -> str:
    """The command that draws one image of the page, but for its label and w.

    '' where there is none: `scripts/sample.py` takes the average that training made.
    """
    results, config = run.results, config_lib.from_json(run.results['config'])
    if pictures_lib.average_length(run) is not None:
        return ''
    in_file = results.get('weights') == 'published' or (run.model and export.is_export(run.model))
    recorded = results_lib.comparable(results)
    flags = {
        'model': run.model or 'MODEL',
        'step': None if in_file else results.get('checkpoint_step'),
        'guidance': _spec(config.guidance.rule, config.guidance.options),
        'guidance_network': config.guidance.network if 'guidance_network' in recorded else None,
        'decoder': config.latent.decoder if 'latent' in config else None,
        'sampler': _sampler(run, config),
        'grid': config.sampler.grid,
        'num_steps': config.sampler.num_steps,
        'model_dtype': results.get('model_dtype'),
        'seed': results.get('seed', 0),
    }
    words = [f'--{k}={shlex.quote(str(v))}' for k, v in flags.items() if v not in (None, '')]
    return ' '.join(['python scripts/sample.py', *words])


def _sampler(run: Run, config: ConfigDict) -> str:
    """'NAME:OPTION=VALUE,...' with the settings that no flag has and the model's config has not."""
    settings = config.sampler
    given = {part.partition('=')[0].strip() for part in settings.options.split(',')}
    known = registry.option_defaults(SAMPLERS.load(settings.name))
    trained = loading.read_config(run.model).sampler if run.model else {}
    options = [
        f'{name}={settings[name]}'
        for name in _WITHOUT_FLAG
        if name in known and name not in given and settings[name] != trained.get(name)
    ]
    return _spec(settings.name, settings.options, *options)


def _set(pictures: pictures_lib.PictureSet) -> dict[str, Any]:
    _, count, height, width, _ = pictures.sheets.shape
    return {
        'title': pictures.title,
        'classes': pictures.classes,
        'labels': pictures.labels,
        'size': [height, width],
        'count': count,
        'sheets': pictures_lib.encode(pictures.sheets),
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f'{text[:12]}...'
