"""How fast images are decoded and resized, and how many cores feed a device.

    python scripts/bench_input.py                                   # one core, made-up pictures
    python scripts/bench_input.py --config=configs/imagenet64.py --workers=0,4,16
    python scripts/describe.py --config=configs/imagenet64.py --images_per_second=600 \\
        --decode_rate=140                                           # -> input_cores

Without --config it decodes pictures that it makes up, with the spectrum of photographs: PNG and
JPEG of 64 pixels, and JPEG of 500 x 375 in about 150 KB (ImageNet: 110). With --config it reads
that config's training batches through Grain with each number of worker processes.
"""

import io
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from cfg_jax import cli, config_files

PICTURES = (
    ('PNG 64 x 64 -> 64', 'PNG', (64, 64), 64, 0),
    ('JPEG 64 x 64 -> 64', 'JPEG', (64, 64), 64, 90),
    ('JPEG 500 x 375 -> 64', 'JPEG', (375, 500), 64, 93),
    ('JPEG 500 x 375 -> 128', 'JPEG', (375, 500), 128, 93),
)
_COUNT = 32  # different pictures


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--config', metavar='FILE', default='', help='measures its data set')
    parser.add_argument(
        '--workers', type=cli.integer_list, default=(0, 1, 2), help='such as 0,4,16'
    )
    parser.add_argument('--seconds', type=cli.positive_real, default=5.0, help='each measurement')
    options, overrides = cli.split_config(parser, argv)
    if overrides and not options.config:
        parser.error(f'{overrides[0]} changes a config: give it as --config')
    if options.config:
        rows = of_config(config_files.load_config(options.config, overrides), options)
    else:
        rows = of_made_up_pictures(options.seconds)
    print('| images | images/s |\n|---|---|')
    for name, rate in rows:
        print(f'| {name} | {rate:,.0f} |')


def of_made_up_pictures(seconds: float) -> Iterator[tuple[str, float]]:
    """(what, images/s on one core) of the training's own decoder."""
    from cfg_jax.data import preprocess

    rng = np.random.default_rng(0)
    for name, kind, shape, size, quality in PICTURES:
        encoded = [encode(photograph(shape, rng), kind, quality) for _ in range(_COUNT)]

        def decode_all(encoded: Sequence[bytes] = encoded, size: int = size) -> int:
            for image in encoded:
                preprocess.decode(image, size=size, channels=3)
            return len(encoded)

        kilobytes = np.mean([len(image) for image in encoded]) / 1000
        yield f'{name}, {kilobytes:.0f} KB, one core', rate_of(decode_all, seconds)


def of_config(config, options) -> Iterator[tuple[str, float]]:
    """(what, images/s) of a config's training batches, with each number of workers."""
    from cfg_jax.data import pipeline

    batch_size = config.train.batch_size
    for workers in options.workers:
        config.data.num_workers = workers
        batches = pipeline.TrainingBatches(config.data, batch_size=batch_size, seed=config.seed)

        def take(batches: Iterator = batches) -> int:
            next(batches)
            return batch_size

        take()  # starts the workers
        yield f'{config.data.name}, {workers} workers', rate_of(take, options.seconds)
        batches.close()


def rate_of(work: Callable[[], int], seconds: float) -> float:
    """Images per second of `work`, which returns how many it did."""
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not done:
        done += work()
    return done / elapsed if elapsed > 0 else float(done)


def photograph(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3] with amplitudes that fall as 1 / frequency, as those of photographs do."""
    fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing='ij')
    amplitude = 1.0 / np.maximum(np.hypot(fy, fx), 1.0 / max(shape))
    noise = rng.normal(size=(3, *shape)) + 1j * rng.normal(size=(3, *shape))
    channels = np.fft.ifft2(noise * amplitude).real
    channels /= channels.std(axis=(1, 2), keepdims=True)
    return np.clip(128 + 55 * np.moveaxis(channels, 0, -1), 0, 255).astype(np.uint8)


def encode(picture: np.ndarray, kind: str, quality: int) -> bytes:
    """The picture as a file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **({'quality': quality} if quality else {}))
    return buffer.getvalue()


if __name__ == '__main__':
    cli.run(main)
