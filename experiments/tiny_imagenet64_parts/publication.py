"""What the real-images experiment publishes: results.json, table.md, pictures, claims, command."""

import collections
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claims_parts import columns as column_lib, findings
from etils import epath

from cfg_jax import files, loading, provenance
from cfg_jax.evaluation import differences, sweep, tables
from cfg_jax.training import starting, writers
from tiny_imagenet64_parts import bars, pictures, rows as row_lib
from tiny_imagenet64_parts.extractor import NAMES, RealExtractor
from tiny_imagenet64_parts.parts import INDEX, Bench
from tiny_imagenet64_parts.rows import CURVE, Curve, Row

_AGAINST_TRAIN = ('w', 'fd768', 'fd768_se', 'sfid')
_AGAINST_VALIDATION = ('fd768_validation', 'fd768_validation_se', 'sfid_validation')
_OTHERS = ('is', 'is_se', 'is_std', 'class_agreement', 'class_agreement_se')
_OTHERS += ('is_judge', 'is_judge_se', 'is_judge_std')
_OTHERS += ('class_agreement_judge', 'class_agreement_judge_se', 'precision', 'recall')
_HEADINGS = NAMES | {
    'fd768_validation': 'FD-768, validation',
    'sfid_validation': 'sFID, validation',
}
_FOR_SCALE = ('seed', 'untrained')  # curves that belong to no part
_SECTIONS = {
    'sweep': 'Guidance',
    'steps': 'The sampler, and a quarter of its NFE',
    'p_uncond': 'p_uncond, models trained as long',
    'branches': 'p_uncond, branches from the main model',
    'T': 'Steps',
    'rules': 'Later rules',
    'classifier': 'Classifier guidance',
}


class Publication:
    """All that was measured of one checkpoint.

    Args:
      bench: of the experiment.
      out: directory to write to.
      argv: of the command.
    """

    def __init__(self, bench: Bench, out: epath.Path, argv: Sequence[str]):
        self._bench, self._out, self._argv = bench, out, argv
        self._directory = bench.root / 'sweep' / bench.directory()
        index = files.read_json(self._directory / INDEX)
        self._parts = {part: index[part] for part in _SECTIONS if index.get(part)}
        floor = row_lib.floor_directory(bench.root, bench.config)
        paths = [floor / f'{split}.json' for split in row_lib.SPLITS]
        self._floor = [files.read_json(path) for path in paths if path.exists()]
        self._less_plain = {part: self._differences(slugs) for part, slugs in self._parts.items()}

    def write(self) -> str:
        """Writes every file; returns the table."""
        text = self._table()
        files.write_bytes(self._out / 'table.md', text.encode())
        files.write_json(self._out / 'results.json', self._results())
        files.write_json(self._out / 'claims.json', [v._asdict() for v in self._verdicts()])
        files.write_bytes(self._out / 'command.txt', self._command().encode())
        if self._training_rows():
            target = loading.read_config(self._bench.model).target
            pictures.loss(self._out / 'loss.png', self._bench.root / 'model', target)
        for part, slugs in self._parts.items():
            curves = [self._curve(slug) for slug in slugs]
            drawn = [(curve['name'], curve['rows']) for curve in curves]
            name = 'tradeoff' if part == 'sweep' else part
            title = f'{_SECTIONS[part]}: {self._what()}'
            pictures.tradeoff(self._out / f'{name}.png', title, drawn, self._floor)
        return text

    def _curve(self, slug: str) -> Curve:
        return files.read_json(self._directory / slug / CURVE)

    def _what(self) -> str:
        config = self._bench.config
        return (
            f'{Path(config.data.name).parent.name}, step {self._bench.step:,},'
            f' {config.sampler.name} on the {config.sampler.grid} grid,'
            f' {config.sweep.num_samples:,} samples a point'
        )

    def _table(self) -> str:
        lines = [f'# Real images: {self._what()}', '', _NOTE]
        for part, slugs in self._parts.items():
            curves = [self._curve(slug) for slug in slugs]
            lines += [f'## {_SECTIONS[part]}', '', _sweep_table(curves)]
            lines += self._table_of_differences(self._less_plain[part])
            if part == 'sweep':
                lines += ['## For scale: real images, another seed, no training', '', self._scale()]
        return '\n'.join(lines)

    def _differences(self, slugs: Sequence[str]) -> list[dict[str, Any]]:
        """FD-768 of the curves of a part less that of plain guidance at the same w, of images from
        the same noise: of the main model with all its steps, or else of the first curve."""
        plain = f'T{self._bench.config.sampler.num_steps}'
        plain = plain if plain in slugs else slugs[0]
        base = {row['w']: row for row in self._curve(plain)['rows']}
        found = []
        for slug in slugs:
            for row in self._curve(slug)['rows']:
                if slug == plain or row['w'] not in base:
                    continue
                difference = differences.between(
                    self._directory / slug, row, self._directory / plain, base[row['w']]
                )
                if difference:
                    found.append({'curve': slug, 'less': plain, 'w': row['w'], **difference})
        return found

    def _table_of_differences(self, found: Sequence[dict[str, Any]]) -> list[str]:
        if not found:
            return []
        leading = [
            {'curve': self._curve(each['curve'])['name'], 'w': f'{each["w"]:g}'} for each in found
        ]
        rows = [{key: each[key] for key in ('fd768', 'fd768_se')} for each in found]
        plain = self._curve(found[0]['less'])['name']
        names = {'fd768': f'FD-768, train, less that of {plain}'}
        return [_PAIRED, '', tables.metric_table(rows, leading, names=names, bold=False)]

    def _scale(self) -> str:
        """Real images, the second seed next to the first, and the untrained network."""
        leading = [
            {'images': f'real, {row["images"]}', 'N': f'{row["num_images"]:,}'}
            | {'against': row['against']}
            for row in self._floor
        ]
        rows = [_shown(row, _AGAINST_TRAIN + _OTHERS) for row in self._floor]
        curves = {slug: self._curve(slug) for slug in (self._parts['sweep'][0], *_FOR_SCALE)}
        chosen = {row['w'] for row in curves['seed']['rows']}
        for curve in curves.values():
            for row in curve['rows']:
                if row['w'] in chosen:
                    images = f'{curve["name"]}, w = {row["w"]:g}'
                    count = f'{curve["num_samples"]:,}'
                    leading.append({'images': images, 'N': count, 'against': 'train'})
                    rows.append(_shown(row, _AGAINST_TRAIN + _OTHERS))
        return tables.metric_table(rows, leading, names=_HEADINGS, bold=False)

    def _results(self) -> dict[str, Any]:
        slugs = dict.fromkeys(slug for slugs in self._parts.values() for slug in slugs)
        for_scale = [slug for slug in _FOR_SCALE if (self._directory / slug / CURVE).exists()]
        return {
            'dataset': self._bench.config.data.name,
            'checkpoint_step': self._bench.step,
            'convention': sweep.CONVENTION,
            'names': {'fd768': RealExtractor.distance, 'sfid': 'sFID'} | _HEADINGS,
            'training': self._training(),
            'floor': self._floor,
            'parts': self._parts,
            'less_plain': self._less_plain,
            'curves': {slug: self._curve(slug) for slug in (*slugs, *for_scale)},
            **provenance.describe_environment(),
        }

    def _training_rows(self) -> list[dict[str, Any]]:
        """What was logged while the model was trained; nothing where that was elsewhere."""
        bench = self._bench
        return writers.read_metrics(bench.root / 'model') if bench.trained else []

    def _training(self) -> dict[str, Any]:
        """Steps and images, with those of the trainings that it started from; how it went."""
        trained, starts = (
            loading.read_config(self._bench.model),
            starting.starts_of(self._bench.model),
        )
        if 'train' not in trained:
            return {}
        images = self._bench.step * trained.train.batch_size
        counted = {
            'steps': self._bench.step,
            'images': images,
            'starts': starts,
            'images_in_all': images + sum(start['images'] for start in starts),
        }
        return counted | self._logged(trained.train.batch_size)

    def _logged(self, batch: int) -> dict[str, float]:
        rows = self._training_rows()
        if not rows:
            return {}
        return {
            'last_loss': rows[-1]['loss'],
            'images_per_second_median': float(np.median([r['images_per_second'] for r in rows])),
            'seconds': sum(
                (row['step'] - before) * batch / row['images_per_second']
                for row, before in zip(rows, [0] + [r['step'] for r in rows[:-1]], strict=True)
            ),
        }

    def _verdicts(self) -> list[findings.Verdict]:
        """The paper's findings on the sweep, and on models and steps where they were measured."""
        found: dict[findings.Verdict, str] = {}
        for part in ('sweep', 'branches', 'p_uncond', 'T'):
            curves = [self._curve(slug) for slug in self._parts.get(part, ())]
            columns = [
                column_lib.of_results(curve['name'], curve, is_name=NAMES['is']) for curve in curves
            ]
            for verdict in findings.check_all(columns):
                found.setdefault(verdict, part)  # a curve may be in several parts
        for verdict in self._of_photographs():
            found.setdefault(verdict, 'sweep')
        claims = collections.Counter(verdict.claim for verdict in found)
        return [
            verdict._replace(claim=f'{verdict.claim} ({_SECTIONS[part]})')
            if claims[verdict.claim] > 1
            else verdict
            for verdict, part in found.items()
        ]

    def _of_photographs(self) -> list[findings.Verdict]:
        """What the paper has no claim of: the second instrument, the untrained network."""
        if 'sweep' not in self._parts:
            return []
        untrained = self._curve('untrained')['rows'][0]
        return bars.check_all(self._curve(self._parts['sweep'][0]), untrained)

    def _command(self) -> str:
        environment = provenance.describe_environment()
        commit = subprocess.run(
            ['git', 'describe', '--always', '--dirty'],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        lines = [
            f'python experiments/tiny_imagenet64.py {shlex.join(self._argv)}',
            '',
            f'commit {commit or "unknown"}',
            *(f'{name} {version}' for name, version in environment['versions'].items()),
            '{count} x {kind} ({platform})'.format(**environment['device']),
        ]
        return '\n'.join(lines) + '\n'


_NOTE = (
    'FD-768 and sFID are Frechet distances of the FID Inception: its 768-d features, its sFID map;'
    ' against the training split where nothing else is said. IS (GoogLeNet) is the Inception'
    " Score's formula on GoogLeNet's 1,000 classes, class agreement the share of samples that it"
    " finds likeliest to be of their class among the set's; the judge's, where there is one, are of"
    " a classifier trained on the set's own classes. Precision and recall are of the 768-d"
    ' features, against the training split. None of them is FID or the published IS: they compare'
    ' with themselves, at the same number of samples: each IS is the mean over its splits, whose\n'
    ' size bounds it from above.\n'
)

_PAIRED = (
    'At the same w, each image of both from the same noise and label, which is why the difference'
    ' is known better than either:'
)


def _sweep_table(curves: Sequence[Curve]) -> str:
    rows, leading = [], []
    for curve in curves:
        for row in curve['rows']:
            rows.append(_shown(row, _AGAINST_TRAIN + _AGAINST_VALIDATION + _OTHERS))
            first = {'curve': curve['name']} if len(curves) > 1 else {}
            # Called network_passes by the first edition.
            nfe = {'NFE': f'{row.get("nfe", row.get("network_passes")):,}'}
            leading.append(first | {'w': f'{row["w"]:g}'} | nfe)
    return tables.metric_table(rows, leading, names=_HEADINGS)


def _shown(row: Row, columns: Sequence[str]) -> Row:
    """The columns of a table in their order."""
    return {key: row[key] for key in columns if key in row}
