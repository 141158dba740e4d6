"""Published files as models of this library: recognised, checked, converted."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files
from cfg_jax.errors import UserError
from cfg_jax.pretrained import (
    FAMILIES,
    Family,
    Plan,
    persistent_pickle,
    safetensors_file,
    torch_archive,
)
from cfg_jax.pretrained.torch_archive import StateDict
from cfg_jax.provenance import describe_environment
from cfg_jax.training import export

_SHOWN = 3  # tensors that a message names


class Published(NamedTuple):
    """A published file that was understood; its tensors are read when they are asked for.

    Attributes:
      path: of the file.
      family: what it was recognised as.
      plan: what it is.
      state: its tensors.
    """

    path: epath.Path
    family: Family
    plan: Plan
    state: StateDict

    @property
    def config(self) -> ConfigDict:
        """Of the model."""
        return self.plan.config

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """(path, float32 array) of each parameter; one at a time is in memory.

        Raises:
          UserError: the file is damaged, or holds a number that is not finite.
        """
        for path, source in self.plan.sources.items():
            names = [source.name, source.gain] if source.gain else [source.name]
            arrays = [self._finite(name) for name in names]
            yield path, np.ascontiguousarray(source.convert(*arrays), np.float32)

    def _finite(self, name: str) -> np.ndarray:
        array = self.state[name]
        if not np.isfinite(array).all():
            raise UserError(
                f'{self.path}: {name!r} ({array.dtype}) holds numbers that are not finite; get the'
                ' file again, in float32'
            )
        return array

    def params(self) -> Any:
        """Parameters as a nested dict, float32; errors as `arrays`."""
        return unflatten_dict(dict(self.arrays()), sep='/')

    def record(self) -> dict[str, Any]:
        """What identifies the file, for provenance."""
        return {
            'family': self.family.title,
            'file': self.path.name,
            'file_sha256': files.sha256_of_file(self.path),
            'origin': self.family.origin,
            'licence': self.family.licence,
        }


def open_published(path: epath.PathLike, settings: str = '') -> Published:
    """A published file, recognised by the names and shapes of its tensors.

    Args:
      path: of the file as its authors published it.
      settings: 'name=value,...' in place of what the family assumes where shapes do not show it.

    Raises:
      UserError: not a file, not a known family, or tensors that are not understood.
    """
    path = files.as_path(path)
    if path.is_dir():
        raise UserError(f'{path} is a directory; give the file of a published model')
    if not path.exists():
        raise UserError(f'there is no file {path}')
    state = _open(path)
    family = _family(path, state)
    try:
        plan = family.plan(state, settings)
    except UserError as error:
        raise UserError(f'{path} was taken for {family.title}, but {error}') from error
    _check_names(path, family, state, plan)
    if settings:
        plan = plan._replace(findings={**plan.findings, 'set': settings})
    config_lib.validate(plan.config)
    return Published(path, family, plan, state)


def _open(path: epath.Path) -> StateDict:
    with path.open('rb') as file:
        beginning = file.read(4096)
    if path.suffix == export.SUFFIX:
        return safetensors_file.open_safetensors(path)
    if persistent_pickle.is_persistent(beginning):
        return persistent_pickle.open_modules(path)
    return torch_archive.open_state_dict(path)


def _family(path: epath.Path, state: StateDict) -> Family:
    for name in FAMILIES:
        family = FAMILIES.load(name)
        if family.recognises(state):
            return family
    raise UserError(
        f'{path} is not of a family that we know ({", ".join(FAMILIES)}): it holds'
        f' {_named(list(state))}'
    )


def _check_names(path: epath.Path, family: Family, state: StateDict, plan: Plan) -> None:
    """Every tensor is used, none is missing, and each has the shape that the structure asks for."""
    expected: dict[str, tuple[int, ...]] = {s.name: s.shape for s in plan.sources.values()}
    expected |= {s.gain: () for s in plan.sources.values() if s.gain}
    taken = f'{path} was taken for {family.title}, but'
    for what, names in (
        ('lacks', expected.keys() - state.keys()),
        ('also has', state.keys() - expected.keys() - plan.ignored),
    ):
        if names:
            raise UserError(f'{taken} {what} {_named(sorted(names))}')
    for name, shape in expected.items():
        if state.shape(name) != shape:
            raise UserError(f'{taken} {name!r} has the shape {state.shape(name)}, not {shape}')


def _named(names: list[str]) -> str:
    more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    return (', '.join(map(repr, names[:_SHOWN])) or 'no tensors') + more


def write(published: Published, out: epath.PathLike) -> dict[str, Any]:
    """Writes a model that takes the place of a work directory, in one atomic step.

    Returns:
      `Published.record`, and the number of parameters.

    Raises:
      UserError: as `Published.arrays`; nothing is written then.
    """
    record = published.record()
    params = published.params()
    export.write(
        out,
        params,
        {
            'config': config_lib.to_json(published.config),
            'step': 0,
            'weights_sha256': export.sha256_of_params(params),
            'versions': describe_environment()['versions'],
            'source': record,
        },
    )
    return record | {'parameters': sum(leaf.size for leaf in jax.tree.leaves(params))}
