"""Draws images of chosen classes from a trained model into one picture.

    python scripts/sample.py --model=runs/digits --labels=3,3,7 --w=3.0 --seed=0 --out=grid.png
    python scripts/sample.py --model=digits.safetensors --labels=3 --w=0,1,3 --guidance=projected
    python scripts/sample.py --model=runs/digits --labels=3,8 --init=seven.png --strength=0.6
    python scripts/sample.py --model=runs/digits --labels=3,8 --w=0,4 --animate=w --out=grow.webp
    python scripts/sample.py --model=runs/digits --labels=3,8 --init=seven.png --mask=half.png

Image i has its own random numbers, from the seed and i alone: the same picture for every batch,
machine and w. --w takes one weight for all images or one per image; one label with several weights
is drawn at each of them. Uses EMA parameters.

--init changes a given picture, of the model's size, instead: the last share --strength of the
sampler's levels is run from it. With --mask only light pixels of that picture are painted anew, and
the others are kept exactly; --resample=10 makes both agree better, at ten times the evaluations.

--names writes class and w above every picture. --animate writes an animated WebP instead: denoising
shows z from noise to image, w shows the same noise while w grows from the first --w to the second.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cfg_jax import cli

if TYPE_CHECKING:
    import numpy as np

    from cfg_jax.inference import Model


def main(argv: Sequence[str]) -> None:
    options = _parsed(argv)

    from absl import logging

    from cfg_jax import files, loading
    from cfg_jax.data import class_names

    files.check_writable(options.out)
    config = loading.read_config(options.model)
    cli.apply_model_options(config, options)
    model = loading.load(options.model, step=options.step, config=config)
    numbers = [label for label in options.labels if isinstance(label, int)]
    for line in class_names.other_readings(numbers, model.class_names):
        logging.warning(line)
    labels, w, indices = _drawn(model, options)
    how = {'w': w[0] if len(w) == 1 else w, 'seed': options.seed, 'indices': indices}
    if options.animate:
        _animate(model, labels, how, options)
        return
    pictures = _edited(model, labels, options, how) if options.init else model.sample(labels, **how)
    _write(model, pictures, labels, w * len(labels) if len(w) == 1 else w, options)
    print(f'{_images(labels)} written to {options.out}')


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    cli.add_model_options(parser)
    parser.add_argument('--labels', type=cli.class_list, required=True, help='class ids or names')
    parser.add_argument('--w', type=cli.number_list, help="guidance weight (0, or the preset's)")
    parser.add_argument('--seed', type=cli.seed, default=0, help='of the images')
    parser.add_argument(
        '--columns',
        type=cli.natural_number,
        default=0,
        help='images per row; 0: about a square',
    )
    parser.add_argument('--init', help='a picture to begin with')
    parser.add_argument('--strength', type=cli.real, help='in [0, 1]: 0.5, with a mask 1')
    parser.add_argument('--mask', help='a picture, light where --init is painted anew')
    parser.add_argument(
        '--resample', type=cli.positive_number, default=1, help='steps a level with a mask'
    )
    parser.add_argument('--names', action='store_true', help='class and w above each picture')
    parser.add_argument('--animate', choices=('denoising', 'w'), help='what moves in a WebP')
    parser.add_argument('--out', help='a PNG, or the WebP of --animate; grid.png')
    options = parser.parse_args(argv)
    _check_together(parser, options)
    options.out = options.out or ('animation.webp' if options.animate else 'grid.png')
    return options


def _check_together(parser: cli.Parser, options: argparse.Namespace) -> None:
    if options.animate and (options.init or options.names):
        parser.error('--animate draws from noise and without names: leave --init and --names out')
    count, weights = len(options.labels), options.w or ()
    if options.animate == 'w':
        if weights and len(weights) != 2:
            parser.error('--animate=w goes from one weight to another: give --w=0,4')
    elif count > 1 and len(weights) > 1 and len(weights) != count:
        parser.error(f'--w has {len(weights)} entries; give one, or one per label ({count})')
    if not options.init and (options.mask or options.resample > 1 or options.strength is not None):
        parser.error('--strength, --mask and --resample change a given picture: give it as --init')
    suffix = '.webp' if options.animate else '.png'
    if options.out and not options.out.lower().endswith(suffix):
        parser.error(f'--out is a picture that ends in {suffix}; got {options.out}')


def _drawn(
    model: 'Model', options: argparse.Namespace
) -> tuple[list[int | str], list[float], list[int]]:
    """The class and the number of each image, and their weights: one each, or one for all."""
    labels = list(options.labels)
    if options.animate == 'w':
        return labels, list(options.w or (0.0, 4.0)), list(range(len(labels)))
    w = list(options.w or (model.config.sweep.w[:1] if options.preset else (0.0,)))
    if len(labels) > 1:
        return labels, w, list(range(len(labels)))
    # One label at several weights: the same noise, so that the pictures differ by w alone.
    return labels * len(w), w, [0] * len(w)


def _edited(
    model: 'Model', labels: Sequence[int | str], options: argparse.Namespace, how: Mapping[str, Any]
) -> 'np.ndarray':
    from cfg_jax import editing

    data = model.config.data
    mask = editing.read_mask(options.mask, data) if options.mask else None
    change = {'strength': options.strength, 'mask': mask, 'resample': options.resample}
    return editing.edit(model, labels, editing.read_image(options.init, data), **how, **change)


def _write(
    model: 'Model',
    pictures: 'np.ndarray',
    labels: Sequence[int | str],
    weights: Sequence[float],
    options: argparse.Namespace,
) -> None:
    from cfg_jax.data import class_names, images
    from cfg_jax.evaluation import plots

    columns = _columns(options, len(labels))
    if options.names:
        names, ids = class_names.readable(model.class_names), model.condition_of(labels)
        above = [
            f'{plots.short_name(names[i])}\nw = {w:g}' for i, w in zip(ids, weights, strict=True)
        ]
        plots.save_named_grid(options.out, pictures, above, columns)
    else:
        images.save_png(options.out, images.grid(pictures, columns), min_side=256)


def _columns(options: argparse.Namespace, count: int) -> int:
    return min(options.columns or math.ceil(math.sqrt(count)), count)


def _images(labels: Sequence[int | str]) -> str:
    return '1 image' if len(labels) == 1 else f'{len(labels)} images'


def _animate(
    model: 'Model',
    labels: Sequence[int | str],
    how: Mapping[str, Any],
    options: argparse.Namespace,
) -> None:
    from cfg_jax import animation

    columns = _columns(options, len(labels))
    animation.check_size(len(labels), columns, model.config.data.image_size)
    if options.animate == 'w':
        low, high = how['w']
        frames = animation.growing_weight(model, labels, low, high, options.seed)
    else:
        frames = animation.denoising(model, labels, **how)
    animation.save(options.out, frames, columns)
    print(f'{len(frames)} frames of {_images(labels)} written to {options.out}')


if __name__ == '__main__':
    cli.run(main)
