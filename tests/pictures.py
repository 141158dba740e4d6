"""Image files for tests: made by Pillow, PNGs of any kind written by hand, folders of classes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's, by channels


def encoded(image, kind='PNG', **options):
    """A Pillow image, or the array of one, as a file's bytes."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image, np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(samples, *chunks):
    """A PNG of uint8 or uint16 samples [H, W, channels], written without Pillow.

    `chunks` are further (kind, content), such as (b'tRNS', b'...').
    """
    height, width, channels = samples.shape
    bits = 8 * samples.dtype.itemsize
    header = struct.pack('>IIBBBBB', width, height, bits, _COLOUR_TYPES[channels], 0, 0, 0)
    rows = samples.astype(samples.dtype.newbyteorder('>')).reshape(height, -1)
    data = b''.join(b'\0' + row.tobytes() for row in rows)  # filter 0 before each row
    parts = [(b'IHDR', header), *chunks, (b'IDAT', zlib.compress(data)), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(_chunk(*part) for part in parts)


def _chunk(kind, content):
    check = struct.pack('>I', zlib.crc32(kind + content))
    return struct.pack('>I', len(content)) + kind + content + check


def random_pixels(count, height=5, width=4, channels=3, seed=0):
    """uint8 [count, height, width, channels]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def class_folder(root, counts, size=8, seed=0):
    """Writes root/CLASS/NUMBER.png for {class: count}: random grey images; returns root."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        images = random_pixels(count, size, size, 1, seed=seed + number)
        for i, image in enumerate(images):
            (root / name / f'{i:03d}.png').write_bytes(png(image))
    return root
