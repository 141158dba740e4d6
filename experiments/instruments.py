"""What the instruments see: real images against other real ones, against noise and against blur.

    python experiments/instruments.py --data=/data/tiny_imagenet64/1.0.0 --inception=inception.npz

The reference is the first images of the training split. Against it stand the first validation
images, the same with Gaussian noise of 10 grey levels, and the same blurred by a Gaussian of radius
1. A distance worth trusting is zero from the reference to itself, small to other real images, and
larger to damaged ones. Features are kept in OUT/features; a killed run continues.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from PIL import Image, ImageFilter
from shared_parts import presets

from cfg_jax import cli

if TYPE_CHECKING:
    from cfg_jax.metrics.features import FeatureExtractor, Features

METRICS = ('fid', 'sfid', 'precision', 'recall', 'kid')


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--data', required=True, help='a prepared TFDS set with train, validation')
    parser.add_argument('--inception', required=True, help='.npz of scripts/convert_inception.py')
    parser.add_argument('--features', choices=('inception', 'inception768'), default='inception768')
    parser.add_argument('--count', type=cli.positive_number, default=5000, help='images a set')
    parser.add_argument('--size', type=cli.positive_number, default=64, help='pixels a side')
    parser.add_argument('--out', default='runs/instruments', help='where results are written')
    options = parser.parse_args(argv)
    presets.check_count(parser, options.count)

    from cfg_jax import (
        files,
        provenance,
    )
    from cfg_jax.evaluation import reference, rows as rows_lib, tables
    from cfg_jax.metrics import Inputs
    from cfg_jax.metrics.features import inception

    extractor = inception.from_file(options.inception, options.features)
    out = files.as_path(options.out)
    sets = image_sets(options.data, options.size, options.count)
    kept = claim(out, options, extractor)
    features = {
        name: kept_features(kept / f'{name}.npz', extractor, make) for name, make in sets.items()
    }
    record = {'dataset': options.data, 'split': f'train, first {options.count}'}
    real = reference.of_features(features['train'], record)
    rows = [
        {'images': name}
        | rows_lib.compute_metrics(Inputs(found, real), METRICS, distance=extractor.distance).row
        for name, found in features.items()
    ]
    table = tables.metric_table(rows, [{'against train': row['images']} for row in rows])
    table += f'\n{tables.meaning_of_errors(rows)}.\n'
    print('\n' + table)
    results = {
        'rows': rows,
        'num_images': options.count,
        'reference': real.record,
        'features': extractor.provenance(),
        'notes': rows_lib.notes(options.count, extractor.distance, real),
    }
    files.write_json(out / 'results.json', results | provenance.describe_environment())
    files.write_bytes(out / 'table.md', table.encode())


def image_sets(name: str, size: int, count: int) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that make the uint8 images [count, size, size, 3] of each set.

    Raises:
      UserError: no such set, or not as many images in one of its splits.
    """
    from ml_collections import ConfigDict

    from cfg_jax.data import (
        images,
        pipeline,
        sources,
    )

    names = sources.label_names(name)
    group = ConfigDict(
        {'name': name, 'data_dir': '', 'image_size': size, 'channels': 3}
        | {'num_classes': len(names), 'num_workers': 0, 'max_bad_examples': 0}
    )
    for split in ('train', 'validation'):  # before any image is looked at
        sources.data_source(group, f'{split}[:{count}]')

    def real(split: str) -> np.ndarray:
        (batch,) = pipeline.one_epoch(group, f'{split}[:{count}]', batch_size=count)
        return np.asarray(images.to_uint8(batch['image']))

    def noisy() -> np.ndarray:
        x = real('validation')
        noise = np.random.default_rng(0).normal(0.0, 10.0, x.shape)
        return np.clip(np.rint(x + noise), 0, 255).astype(np.uint8)

    def blurred() -> np.ndarray:
        blur = ImageFilter.GaussianBlur(1)
        return np.stack(
            [np.asarray(Image.fromarray(image).filter(blur)) for image in real('validation')]
        )

    return {
        'train': lambda: real('train'),
        'validation': lambda: real('validation'),
        'validation, noise of 10 levels': noisy,
        'validation, blur of radius 1': blurred,
    }


def claim(out: epath.Path, options: Namespace, extractor: 'FeatureExtractor') -> epath.Path:
    """The directory in `out` for features of these very images and this extractor.

    Raises:
      UserError: it holds those of others.
    """
    from cfg_jax.evaluation import results

    settings = {
        'dataset': options.data,
        'image_size': options.size,
        'num_samples': options.count,
        'features': extractor.provenance(),
    }
    # Not in `out` itself: what releases before kept there does not say what it was made of.
    return results.claim(out / 'features', settings, 'choose another --out')


def kept_features(
    path: epath.Path, extractor: 'FeatureExtractor', make: Callable[[], np.ndarray]
) -> 'Features':
    """Features of the images that `make()` returns, from `path` where they are."""
    from cfg_jax import files, progress
    from cfg_jax.metrics.features import Features, extraction

    kept = files.read_or_set_aside(path, files.read_npz)
    if kept is None:
        images = make()
        batches = [images[i : i + 50] for i in range(0, len(images), 50)]
        print(f'{path.stem}: {len(images):,} images')
        parts = []
        with progress.bar(len(images), 'images') as bar:
            for part in extraction.extract_all(extractor, batches, 50):
                parts.append(part)
                bar.update(len(part.pooled))
        found = extraction.concatenate(parts)._asdict()
        kept = {k: v for k, v in found.items() if v is not None}
        files.write_npz(path, kept)
    return Features(**kept)


if __name__ == '__main__':
    cli.run(main)
