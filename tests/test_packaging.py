"""Wheel and sdist: they build, hold all of the library, and work where the repository is not."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest
from support import ROOT

_USE = """
import cfg_jax, sys
from cfg_jax.report import page
print(cfg_jax.__file__)
model = cfg_jax.load(sys.argv[1])
assert model.sample([3, 7], w=1.0).shape == (2, 8, 8, 1)
page.write([sys.argv[2]], 'report.html')
"""


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it: paths."""
    out = tmp_path_factory.mktemp('dist')
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    [wheel], [sdist] = out.glob('*.whl'), out.glob('*.tar.gz')
    return wheel, sdist


def tracked(*folders):
    """Files that git knows, by their paths."""
    listed = subprocess.run(
        ['git', 'ls-files', *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(listed.stdout.split())


def test_the_wheel_holds_the_library_and_nothing_else(built):
    names = {name for name in zipfile.ZipFile(built[0]).namelist() if '.dist-info/' not in name}
    assert names == tracked('cfg_jax')


def test_the_sdist_holds_what_a_user_reads_and_runs(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert tracked('cfg_jax', 'configs', 'docs', 'experiments', 'scripts', 'tests') <= names
    assert {'README.md', 'CHANGELOG.md', 'LICENSE', 'Makefile', 'pyproject.toml'} <= names


def test_the_wheel_works_elsewhere(built, swept_workdir, tmp_path):
    """In an environment that has what the wheel requires, and no clone of the repository."""
    place = tmp_path / 'site'
    install = ['install', '--quiet', '--no-deps', '--target', str(place), str(built[0])]
    subprocess.run([sys.executable, '-m', 'pip', *install], check=True, capture_output=True)
    # -S leaves out what lets this environment find the clone.
    paths = os.pathsep.join([str(place), sysconfig.get_path('purelib')])
    done = subprocess.run(
        [sys.executable, '-S', '-c', _USE, swept_workdir, swept_workdir],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[0].startswith(str(place))
    assert (tmp_path / 'report.html').stat().st_size > 10_000
