"""Compilations of one config for one machine: kept in a file, and the largest batch looked for."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, files, provenance
from cfg_jax.errors import UserError
from cfg_jax.perf import ahead_of_time, memory, topologies

Result = dict[str, Any]
KEYS = ('config', 'overrides', 'topology', 'versions', 'programs')
_HOPELESS = 1.5  # times the memory there is


class Kept:
    """What was compiled, by program, in DIRECTORY/CONFIG_TOPOLOGY.json.

    Args:
      path: of the config.
      overrides: '--config.FIELD=VALUE' of it.
      config: both read.
      topology: see `topologies.target`.
      directory: of the file; it is made where it is missing.

    Raises:
      UserError: no such topology; or a file there of the same config with other fields, or of
        another compiler.
    """

    def __init__(
        self,
        path: str,
        overrides: Sequence[str],
        config: ConfigDict,
        topology: str,
        directory: epath.PathLike,
    ):
        self._config, self._target = config, topologies.target(topology)
        stem = re.sub(r'\.py:?', '_', path.rpartition('/')[2]).strip('_')
        self._file = files.as_path(directory) / f'{stem}_{topology.replace(":", "-")}.json'
        # Whatever does not change the programs: where they run is asked of the target.
        head = {'config': path, 'overrides': [*overrides], 'topology': topology}
        head |= {'fields': config_lib.to_json(config)}
        head |= {'versions': provenance.describe_environment()['versions']}
        self._content: Result = head | {'programs': {}}
        files.check_writable(self._file)
        if self._file.exists():
            advice = 'move it away, and compile again'
            self._take_over(files.read_json(self._file, keys=KEYS, advice=advice))

    def _take_over(self, before: Result) -> None:
        ours = self._content
        others = [
            f'{key} {before[key]} instead of {ours[key]}'
            for key in ('config', 'overrides')
            if before[key] != ours[key]
        ]
        if 'fields' in before:  # later than the first of these files
            fields = config_lib.from_json(before['fields'])
            others += config_lib.differences(fields, config_lib.from_json(ours['fields']))
        for package in ('jax', 'jaxlib'):
            versions = [content['versions'][package] for content in (before, ours)]
            if versions[0] != versions[1]:
                others.append(f'{package} {versions[0]} instead of {versions[1]}')
        if others:
            raise UserError(
                f'{self._file} was compiled otherwise ({"; ".join(others)}): give another --out'
            )
        ours['programs'] = before['programs']

    def content(self) -> Result:
        """What the file holds."""
        return self._content

    def fit(self, remat: str, images_at_once: Sequence[int] | None = None) -> None:
        """Compiles the training step for the largest part of the batch that fits a chip.

        Args:
          remat: the policy.
          images_at_once: on a chip, compiled instead whether they fit or not.

        Raises:
          UserError: parts that the batch does not have.
        """
        parts = parts_of(self._config.train.batch_size, self._target.chips)
        if images_at_once is not None:
            for images in images_at_once:
                self._training(images, remat, parts)
            return
        estimated = self._estimate(remat)
        largest_that_fits(
            list(parts),
            lambda images: self._training(images, remat, parts),
            lambda images: estimated.at(images) / self._target.usable_bytes,
        )

    def sampling(self) -> Result:
        """Compiles the guided trajectory."""
        return self._once(
            'guided sampling', lambda: ahead_of_time.sampling(self._config, self._target)
        )

    def _training(self, images: int, remat: str, parts: dict[int, int]) -> Result:
        config = self._config.copy_and_resolve_references()
        config.model.remat = remat
        if images in parts:
            config.train.grad_accum = parts[images]
        else:  # more than the config's batch has
            config.train.grad_accum = 1
            config.train.batch_size = images * self._target.chips
        config_lib.check_devices(config, self._target.chips)
        name = f'training, {images} images at once, remat={remat}'
        batch = {'config_batch': self._config.train.batch_size}
        return self._once(name, lambda: ahead_of_time.training(config, self._target) | batch)

    def _estimate(self, remat: str) -> memory.Estimate:
        config = ahead_of_time.resolved(self._config, self._target)
        config.model.remat = remat
        with topologies.answered(self._target):
            return memory.estimate(config, self._target.machine.platform)

    def _once(self, name: str, compile_it: Callable[[], Result]) -> Result:
        programs = self._content['programs']
        if name not in programs:
            logging.info(f'compiling {name} for {self._target.name}')
            programs[name] = compile_it()
            jax.clear_caches()  # traces hold much memory where many programs are compiled
            files.write_json(self._file, self._content)
        return programs[name]


def parts_of(batch: int, chips: int) -> dict[int, int]:
    """Images at once on a chip -> the `train.grad_accum` of it, largest first.

    Raises:
      UserError: a batch that the chips cannot share evenly.
    """
    if batch % chips:
        raise UserError(f'train.batch_size={batch} is not divisible by {chips} chips')
    share = batch // chips
    return {share // n: n for n in range(1, share + 1) if share % n == 0}


def largest_that_fits(
    parts: Sequence[int], compiled: Callable[[int], Result], share: Callable[[int], float]
) -> int | None:
    """The largest part that a compiler says fits; None: none does.

    Args:
      parts: largest first.
      compiled: the result of one, with 'fits'.
      share: of the memory that one is estimated to take: the search begins where it is below 1, and
        compiles nothing that is estimated to take half as much again as there is.
    """
    place = next((i for i, images in enumerate(parts) if share(images) <= 1.0), len(parts) - 1)
    if compiled(parts[place])['fits']:
        while place > 0 and share(parts[place - 1]) < _HOPELESS:
            if not compiled(parts[place - 1])['fits']:
                break
            place -= 1
        return parts[place]
    for images in parts[place + 1 :]:
        if compiled(images)['fits']:
            return images
    return None
