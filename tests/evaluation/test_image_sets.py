"""ADM batches and folders of PNGs: what is written is read back; every mistake is told."""

import io
import logging
import zipfile

import numpy as np
import pytest
from pictures import png, random_pixels
from PIL import Image
from support import user_error

from cfg_jax.data import preprocess
from cfg_jax.evaluation import image_sets


def pixels(count, height=5, width=4, channels=3, seed=0):
    return random_pixels(count, height, width, channels, seed)


def read(path, batch_size=3):
    """All images of a set, and the sizes of its batches."""
    found = image_sets.open_images(path)
    batches = list(found.batches(batch_size))
    assert all(batch.dtype == np.uint8 for batch in batches)
    images = np.concatenate(batches)
    assert len(found) == len(images)
    return images, [len(batch) for batch in batches]


def write_png(path, image, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(path, 'PNG')


def png_folder(folder, count=3):
    for number, image in enumerate(pixels(count)):
        write_png(folder / f'{number:03d}.png', image)
    return folder


def problem(path):
    """The one message with which reading everything of `path` must end; it names the path."""
    message = user_error(read, path)
    assert str(path) in message
    return message


@pytest.mark.parametrize('parts', [(7,), (3, 4), (1, 2, 0, 4)])
def test_saved_batches_are_numpys_and_adms(tmp_path, parts):
    images, path = pixels(7), tmp_path / 'new' / 'batch.npz'
    pieces = np.split(images, np.cumsum(parts)[:-1])
    image_sets.save_batch(path, images.shape, iter(pieces))
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays.files == ['arr_0']
        assert arrays['arr_0'].dtype == np.uint8
        np.testing.assert_array_equal(arrays['arr_0'], images)
    np.testing.assert_array_equal(read(path)[0], images)
    assert [file.name for file in path.parent.iterdir()] == ['batch.npz']


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_batches_of_numpy_are_read(tmp_path, save):
    """`arr_0` is what np.savez calls its first array; ADM's have labels beside."""
    images, path = pixels(7), tmp_path / 'batch.npz'
    save(path, images, np.arange(7))
    np.testing.assert_array_equal(read(path)[0], images)
    np.testing.assert_array_equal(read(str(path))[0], images)


@pytest.mark.parametrize('kind', ['batch', 'folder'])
@pytest.mark.parametrize(
    ('batch_size', 'sizes'), [(1, [1] * 7), (2, [2, 2, 2, 1]), (7, [7]), (100, [7])]
)
def test_batches_of_any_size(tmp_path, kind, batch_size, sizes):
    path = png_folder(tmp_path / 'folder', 7)
    if kind == 'batch':
        path = tmp_path / 'batch.npz'
        np.savez(path, pixels(7))
    images, found = read(path, batch_size)
    assert found == sizes
    np.testing.assert_array_equal(images, pixels(7))


def test_batches_can_be_read_again(tmp_path):
    np.savez(tmp_path / 'batch.npz', pixels(7))
    for path in (tmp_path / 'batch.npz', png_folder(tmp_path / 'folder', 7)):
        found = image_sets.open_images(path)
        for _ in range(2):
            np.testing.assert_array_equal(next(found.batches(2)), pixels(7)[:2])


def test_folders_are_sorted_by_path_with_subfolders(tmp_path):
    """Whatever the order of writing, or of the file system."""
    images = pixels(6)
    names = ['a/b/0.png', 'a/1.png', 'a/10.png', 'a/2.png', 'b.png', 'c/0.PNG']
    for number in (4, 1, 5, 0, 3, 2):
        write_png(tmp_path / names[number], images[number])
    (tmp_path / 'README').write_text('no image')
    (tmp_path / 'labels.csv').write_text('no image')
    order = sorted(range(6), key=lambda number: (tmp_path / names[number]).parts)
    np.testing.assert_array_equal(read(tmp_path)[0], images[order])


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    np.savez(tmp_path / 'batch.npz', pixels(2))
    np.testing.assert_array_equal(read('~/batch.npz')[0], pixels(2))
    assert image_sets.has_images('~/batch.npz')


def test_has_images(tmp_path):
    np.savez(tmp_path / 'batch.npz', pixels(2))
    np.savez(tmp_path / 'both.npz', pixels(2), mu=np.zeros(2), sigma=np.eye(2))
    np.savez(tmp_path / 'statistics.npz', mu=np.zeros(2), sigma=np.eye(2))
    assert image_sets.has_images(tmp_path)
    assert image_sets.has_images(tmp_path / 'batch.npz')
    assert image_sets.has_images(tmp_path / 'both.npz')
    assert not image_sets.has_images(tmp_path / 'statistics.npz')
    missing, text = tmp_path / 'missing.npz', tmp_path / 'text.npz'
    text.write_text('no archive')
    for path in (missing, text):
        assert str(path) in user_error(image_sets.has_images, path)


def test_missing_path(tmp_path):
    message = problem(tmp_path / 'missing')
    assert 'folder of PNGs or an .npz' in message


@pytest.mark.parametrize(
    ('names', 'told'),
    [((), 'no PNGs'), (('a.jpg', 'b/c.JPEG'), '.jpg'), (('notes.txt',), '.txt')],
)
def test_folders_without_pngs(tmp_path, names, told):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    message = problem(tmp_path)
    assert told in message
    assert 'save images as PNG' in message


@pytest.mark.parametrize('mode', ['L', 'P', '1'])
@pytest.mark.parametrize('number', [0, 2])
def test_pngs_that_are_not_rgb_are_converted_and_reported(tmp_path, caplog, mode, number):
    png_folder(tmp_path)
    path = tmp_path / f'{number:03d}.png'
    write_png(path, pixels(1)[0], mode)
    with caplog.at_level(logging.WARNING, 'absl'):
        images, _ = read(tmp_path)
    with Image.open(path) as picture:
        expected = np.asarray(picture.convert('RGB'))
    np.testing.assert_array_equal(images[number], expected)
    np.testing.assert_array_equal(np.delete(images, number, 0), np.delete(pixels(3), number, 0))
    (record,) = caplog.records
    assert f'{path} is of mode {mode}' in record.getMessage()


def test_transparent_pngs_are_seen_on_white(tmp_path, caplog):
    """(colour alpha + 255 (255 - alpha)) / 255, by the table that training uses."""
    levels = random_pixels(6, channels=4)
    for number, image in enumerate(levels):
        (tmp_path / f'{number}.png').write_bytes(png(image))
    with caplog.at_level(logging.WARNING, 'absl'):
        images, _ = read(tmp_path)
    alpha = levels[..., 3:] / 255
    np.testing.assert_allclose(images, levels[..., :3] * alpha + 255 * (1 - alpha), atol=1.01)
    for image, content in zip(images, sorted(tmp_path.iterdir()), strict=True):
        seen = preprocess.read_pixels(content.read_bytes(), 3)[0]
        np.testing.assert_array_equal(image, seen)
    assert len(caplog.records) == 1  # not a line for each
    assert 'transparent ones on white' in caplog.records[0].getMessage()


def test_grey_of_sixteen_bits_is_scaled(tmp_path):
    levels = np.uint16([0, 257, 300, 65535]).reshape(2, 2, 1)
    (tmp_path / '0.png').write_bytes(png(levels))
    images, _ = read(tmp_path)
    assert images[0, ..., 0].ravel().tolist() == [0, 1, 1, 255]


def test_links_to_class_folders_are_followed(tmp_path):
    """Ten classes, nine of them links: 100 images, not 10."""
    elsewhere, folder = tmp_path / 'elsewhere', tmp_path / 'set'
    for number in range(10):
        png_folder(elsewhere / f'class{number}', 10)
    folder.mkdir()
    (elsewhere / 'class0').rename(folder / 'class0')
    for number in range(1, 10):
        (folder / f'class{number}').symlink_to(elsewhere / f'class{number}')
    (folder / 'class0' / 'link.png').symlink_to(elsewhere / 'class1' / '000.png')
    (folder / 'round').symlink_to(folder)
    images, _ = read(folder)
    assert len(images) == 101
    assert image_sets.open_images(folder).describe() == '101 images of 101 files'


@pytest.mark.parametrize('ending', ['.jpg', '.JPEG', '.webp', '.bmp'])
def test_mixtures_are_an_error_with_counts(tmp_path, ending):
    png_folder(tmp_path, 20)
    for number in range(80):
        (tmp_path / f'{number:03d}{ending}').write_bytes(jpeg())
    message = problem(tmp_path)
    assert '20 PNGs' in message
    assert f'80 {ending.lower()}' in message


def test_files_of_systems_and_people_never_stop_a_set(tmp_path):
    png_folder(tmp_path / 'a')
    for name in ('.DS_Store', 'a/Thumbs.db', 'a/._000.png', '.hidden.png', 'a/desktop.ini'):
        (tmp_path / name).write_bytes(b'no picture')
    for name in ('__MACOSX', '.ipynb_checkpoints'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '000.png').write_bytes(b'no picture')
    for name in ('README', 'a/labels.csv'):
        (tmp_path / name).write_text('no picture')
    (tmp_path / 'a' / 'lost.png').symlink_to('nowhere.png')
    np.testing.assert_array_equal(read(tmp_path)[0], pixels(3))
    told = image_sets.open_images(tmp_path).describe()
    assert told.startswith('3 images of 13 files; skipped: 7 hidden, 2 of other kinds')
    assert '1 unreadable (a/lost.png)' in told


def test_what_is_in_a_set_is_always_said(tmp_path):
    png_folder(tmp_path / 'folder', 7)
    (tmp_path / 'folder' / 'notes.txt').write_text('')
    np.savez(tmp_path / 'batch.npz', pixels(7))
    assert image_sets.open_images(tmp_path / 'batch.npz').describe() == '7 images of 1 file'
    told = image_sets.open_images(tmp_path / 'folder').describe()
    assert told == '7 images of 8 files; skipped: 1 of other kinds (.txt)'


def test_pngs_of_different_sizes(tmp_path):
    png_folder(tmp_path)
    write_png(tmp_path / '001.png', pixels(1, height=5, width=6)[0])
    message = user_error(read, tmp_path)
    assert str(tmp_path / '001.png') in message
    assert '6x5' in message
    assert '000.png' in message
    assert '4x5' in message


def jpeg():
    stream = io.BytesIO()
    Image.fromarray(pixels(1)[0]).save(stream, 'JPEG')
    return stream.getvalue()


@pytest.mark.parametrize('number', [0, 2])
@pytest.mark.parametrize(
    'spoil',
    [
        lambda content: b'',
        lambda content: b'no picture',
        lambda content: content[:40],
        lambda content: content[: len(content) - 30],
        lambda content: content[:50] + bytes([content[50] ^ 0xFF]) + content[51:],
        lambda content: (
            content[: content.index(b'IDAT') - 1] + b'\x08' + content[content.index(b'IDAT') :]
        ),
        lambda content: content[:11] + b'\0' + content[12:],
        lambda content: jpeg(),
        lambda content: png(np.zeros((4, 4, 3), np.uint16)),
    ],
    ids=['empty', 'text', 'short', 'cut', 'flipped', 'chunk', 'header', 'jpeg', '16 bits'],
)
def test_damaged_pngs(tmp_path, spoil, number):
    png_folder(tmp_path)
    path = tmp_path / f'{number:03d}.png'
    path.write_bytes(spoil(path.read_bytes()))
    assert str(path) in user_error(read, tmp_path)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('count', [2, 300])
def test_truncated_npz(tmp_path, save, count):
    path = tmp_path / 'batch.npz'
    save(path, pixels(count))
    content = path.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        problem(path)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('count', [2, 300])
def test_npz_with_a_wrong_byte(tmp_path, save, count):
    """In the local header, in the middle, near the end of the images."""
    path = tmp_path / 'batch.npz'
    save(path, pixels(count))
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        end = archive.start_dir
    for place in (1, 31, end // 2, end - 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        problem(path)


def test_npz_that_ends_too_soon(tmp_path):
    """A sound archive whose array has fewer pixels than its header says."""
    path = tmp_path / 'batch.npz'
    image_sets.save_batch(path, (7, 5, 4, 3), [pixels(4)])
    assert 'ends after 3 images' in problem(path)


@pytest.mark.parametrize(
    ('arrays', 'told'),
    [
        ({'images': pixels(2)}, "'arr_0' but images"),
        ({'mu': np.zeros(2), 'sigma': np.eye(2)}, 'mu, sigma'),
        ({}, 'nothing'),
        ({'arr_0': pixels(2) / np.float32(255)}, 'float32'),
        ({'arr_0': pixels(2).astype(np.int64)}, 'int64'),
        ({'arr_0': pixels(2)[0]}, '(5, 4, 3)'),
        ({'arr_0': pixels(2, channels=1)}, '(2, 5, 4, 1)'),
        ({'arr_0': pixels(2, channels=4)}, '(2, 5, 4, 4)'),
        ({'arr_0': np.moveaxis(pixels(2), 3, 1).copy()}, '(2, 3, 5, 4)'),
        ({'arr_0': pixels(0)}, 'no images'),
    ],
)
def test_npz_of_something_else(tmp_path, arrays, told):
    path = tmp_path / 'batch.npz'
    np.savez(path, **arrays)
    assert told in problem(path)


def test_npz_with_its_axes_in_the_other_order(tmp_path):
    """Fortran order is no wrong shape: the message must not complain of a right one."""
    path = tmp_path / 'batch.npz'
    np.savez(path, np.asfortranarray(pixels(2)))
    message = problem(path)
    assert 'ortran' in message or 'order' in message


def test_npz_of_something_that_is_no_array(tmp_path):
    path = tmp_path / 'batch.npz'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('arr_0.npy', b'no array at all')
    assert 'damaged' in problem(path)
    path.write_bytes(b'')
    problem(path)
    np.save(tmp_path / 'images.npy', pixels(2))
    problem(tmp_path / 'images.npy')
