"""How fast a config trains and samples on this machine, with the operations counted.

Rates are medians over rounds, without compilation and first runs. Data are random numbers unless
the input is what is measured: neither the loss nor the images mean anything here.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cfg_jax.data import images
from cfg_jax.distributed import devices
from cfg_jax.errors import UserError
from cfg_jax.evaluation import sweep
from cfg_jax.evaluation.cache import Samples
from cfg_jax.evaluation.reference import of_features
from cfg_jax.guidance import Rule
from cfg_jax.guidance.interval import Interval
from cfg_jax.inference import Model
from cfg_jax.metrics.features import FeatureExtractor, Features, extraction
from cfg_jax.models import networks
from cfg_jax.perf import accelerators, cost, profiler
from cfg_jax.samplers import GRIDS
from cfg_jax.training import step as train_step

Result = dict[str, Any]


def training(
    config: ConfigDict,
    steps: int,
    rounds: int,
    batches: Iterator[Any] | None = None,
    profile: bool = False,
) -> Result:
    """Images/s of whole training steps at the config's batch, Adam and EMA included.

    Args:
      config: its `train.batch_size` and `train.grad_accum` are what is tried.
      steps: in a round.
      rounds: timed, after one that is not.
      batches: of the input pipeline, waited for as in training; by default one batch of random
        numbers, sent to the devices at every step.
      profile: lists the kernels that take the time, in one more round.

    Returns:
      images_per_second and those of every round; tflops (of three counted forward passes an image)
      and, in bfloat16 on a known accelerator, the share of all devices' peak; compile_seconds;
      counted and XLA's own GFLOP of an image; bytes that XLA plans and that were in use at most.
    """
    size = config.train.batch_size
    state = jax.device_put(train_step.create_state(config), devices.replicated())
    batch = devices.split_batch(_random_batch(config) if batches is None else next(batches))
    step_fn = devices.map_step(train_step.make_train_step(config))
    start = time.perf_counter()
    compiled = step_fn.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - start

    def run() -> int:
        nonlocal state
        pending: list[Any] = []
        for _ in range(steps):
            given = batch if batches is None else devices.split_batch(next(batches))
            state, metrics = compiled(state, given)
            pending.append(metrics)
            devices.wait_for_all_but_a_few(pending)
        jax.block_until_ready(state)
        return steps * size

    result = {'batch_size': size, 'grad_accum': config.train.grad_accum}
    result |= _rates({'': run}, rounds)['']
    flops = 3 * cost.forward_flops(config)
    result |= {'compile_seconds': compile_seconds}
    if profile:
        result |= {'kernels': profiler.top_kernels(run)}
    return result | _work(config, result, flops) | _compiled(compiled, size)


class Sampling:
    """Sampling with a config's sampler and network, whose parameters are random here.

    Args:
      config: trajectories are of `sweep.batch_size` images.
      rule: instead of classifier-free guidance.
    """

    def __init__(self, config: ConfigDict, rule: Rule | None = None):
        self._config = config
        self._model = Model(config, {'main': random_params(config)}, rule=rule)

    def measure(self, w: float, rounds: int) -> Result:
        """One `Trajectory` at guidance weight `w`; see `by_turns`."""
        return by_turns({'': Trajectory(self, w)}, rounds)['']

    def run(self, w: float, extractor: FeatureExtractor | None = None) -> Callable[[], int]:
        """What makes a batch at guidance weight `w`, and brings it to the host."""
        count = self._config.sweep.batch_size
        numbers = np.arange(count)
        condition = self._model.draw_conditions(0, numbers, 'balanced')
        if extractor is not None:
            extract = extraction.make_extract(extractor)
            extractor_params = jax.device_put(extractor.params, devices.replicated())

        def run() -> int:
            x = images.to_uint8(self._model.generate(0, numbers, condition, w).x)
            if extractor is None:
                np.asarray(x)
            else:
                extraction.fetch(extract(extractor_params, x), count)
            return count

        return run

    def row(self, w: float, nfe_saved: float, rates: Result) -> Result:
        """What rates at guidance weight `w` mean."""
        count, steps = self._config.sweep.batch_size, self._config.sampler.num_steps
        result = {'w': w, 'batch_size': count, 'num_steps': steps} | rates
        flops = self._model.flops_per_image(w)
        if nfe_saved:
            one_pass = self._model.flops_per_image(0.0)
            flops -= 2.0 * nfe_saved * (flops - one_pass)  # of the steps
        result |= {'milliseconds': 1e3 / result['images_per_second']}
        return result | _work(self._config, result, flops)


class Trajectory(NamedTuple):
    """What `by_turns` measures.

    Attributes:
      sampling: of which config and rule.
      w: guidance weight; 0 takes one evaluation a step.
      extractor: makes features of the images too, which are fetched; images leave the device
        otherwise.
      nfe_saved: share of the evaluations that the rule leaves out.
    """

    sampling: Sampling
    w: float
    extractor: FeatureExtractor | None = None
    nfe_saved: float = 0.0


def by_turns(trajectories: Mapping[str, Trajectory], rounds: int) -> dict[str, Result]:
    """Images/s of whole trajectories, which take turns: a machine's speed may wander meanwhile.

    Args:
      trajectories: by name.
      rounds: timed, after one that is not; in a round each makes a batch, to uint8.

    Returns:
      By name images_per_second and those of every round, milliseconds an image, first_seconds
      (compilation and the first run), tflops as counted, and memory.
    """
    runs = {name: t.sampling.run(t.w, t.extractor) for name, t in trajectories.items()}
    rates = _rates(runs, rounds)
    return {name: t.sampling.row(t.w, t.nfe_saved, rates[name]) for name, t in trajectories.items()}


def metrics_milliseconds(config: ConfigDict, extractor: FeatureExtractor) -> float:
    """Time that a sweep's metrics take an image, of `sweep.num_samples` made-up features."""
    data, count = config.data, config.sweep.num_samples
    image_shape = data.image_size, data.image_size, data.channels
    shapes = extraction.shapes(extractor, image_shape, count)
    rng = np.random.default_rng(0)

    def random_features() -> Features:
        return jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), shapes)

    samples, reference = random_features(), of_features(random_features(), {})
    labels = np.arange(count) % data.num_classes
    start = time.perf_counter()
    sweep.evaluate(Samples(samples, labels), extractor, reference, config)
    return 1e3 * (time.perf_counter() - start) / count


def interval_rule(config: ConfigDict) -> tuple[Rule, float]:
    """Guidance in the middle half of the steps, and the share of the evaluations it saves.

    Raises:
      UserError: fewer than four steps, which have no middle half.
    """
    steps = config.sampler.num_steps
    if steps < 4:
        raise UserError(f'sampler.num_steps={steps} has no middle half; take at least 4')
    grid = GRIDS.make(config.sampler.grid, schedule=networks.make_schedule(config))
    levels = np.asarray(grid.levels(steps))
    first = steps // 4
    end = first + steps // 2
    # The ends lie half-way between two steps, where rounding cannot move a step across them.
    highest, lowest = (math.exp(-0.25 * (levels[step - 1] + levels[step])) for step in (first, end))
    return Interval(lowest, highest), (steps - (end - first)) / (2 * steps)


def random_params(config: ConfigDict) -> Any:
    """Parameters with nothing at zero, where a fresh network's output and half its branches are.

    Drawn by NumPy: initialising compiles hundreds of small programs.
    """
    shapes = jax.eval_shape(
        networks.make_network(config).init, jax.random.key(0), *networks.inputs(config)
    )
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = rng.standard_normal(leaf.shape, np.float32)
        if leaf.ndim > 1:
            return noise / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))
        return np.float32(0.1) * noise + np.float32(path[-1].key == 'scale')

    return jax.tree.map_with_path(draw, shapes)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device had no room for what was tried."""
    return 'RESOURCE_EXHAUSTED' in str(error) or 'out of memory' in str(error).lower()


def _rates(runs: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, Result]:
    """Images/s by name, of functions that take turns and return how many images they have made."""

    def timed(run: Callable[[], int]) -> tuple[int, float]:
        start = time.perf_counter()
        return run(), time.perf_counter() - start

    first = {name: timed(run)[1] for name, run in runs.items()}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            count, seconds = timed(run)
            rates[name].append(count / seconds)
    return {
        name: {
            'images_per_second': statistics.median(rates[name]),
            'rounds': rates[name],
            'first_seconds': first[name],
        }
        for name in runs
    }


def _work(config: ConfigDict, result: Result, flops: float) -> Result:
    """What the rate means in operations, of `flops` an image, and the memory in use at most.

    The latter is the whole process's so far.
    """
    tflops = flops * result['images_per_second'] / 1e12
    work = {'gflop_per_image': flops / 1e9, 'tflops': tflops}
    chip = accelerators.of_device(jax.devices()[0].device_kind)
    if chip and config.model.dtype == 'bfloat16':
        work['share_of_peak'] = tflops / (chip.peak_tflops * jax.device_count())
    memory = jax.local_devices()[0].memory_stats() or {}
    if 'peak_bytes_in_use' in memory:
        work['process_peak_memory_gib'] = memory['peak_bytes_in_use'] / 2**30
    return work


def _compiled(compiled: Any, size: int) -> Result:
    """What XLA reports of an executable for `size` images on all devices."""
    here = size / jax.device_count()
    analysis = compiled.cost_analysis() or {}
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    memory = compiled.memory_analysis()
    result = {'xla_gflop_per_image': analysis.get('flops', 0.0) / here / 1e9}
    if memory is not None:
        kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
        total = kept + memory.temp_size_in_bytes - memory.alias_size_in_bytes
        result['planned_memory_gib'] = total / 2**30
    return result


def _random_batch(config: ConfigDict) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    size, data = config.train.batch_size, config.data
    shape = (size, data.image_size, data.image_size, data.channels)
    return {
        'image': rng.uniform(-1, 1, shape).astype(np.float32),
        'condition': rng.integers(data.num_classes, size=size, dtype=np.int32),
    }
