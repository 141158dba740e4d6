"""Trained models: what work directories hold, ready to generate."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from cfg_jax import (
    files,
    generation,
    models,
)
from cfg_jax.distributed import devices
from cfg_jax.errors import UserError
from cfg_jax.rules import (
    Autoguidance,
    ClassifierGuidance,
    GuidedNetworks,
    MainAndGuide,
    Rule,
)
from cfg_jax.training import (
    checkpoints,
    step as train_step,
    workdirs,
)


class Model(Protocol):
    """What a sweep asks of a model."""

    config: ConfigDict

    def generate(self, seed: int, indices: ArrayLike, labels: ArrayLike, w: ArrayLike) -> jax.Array:
        """Images by number, see `generation.Generator`."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Checkpoint, hashes and rule: what decides the images, apart from the config."""
        ...


class _Generating:
    """What every model here does with its generator and its parameters on the devices."""

    def __init__(self, config: ConfigDict, generator: generation.Generator, params: Any):
        self.config = config
        self._generator = generator
        self._params = params

    def generate(self, seed: int, indices: ArrayLike, labels: ArrayLike, w: ArrayLike) -> jax.Array:
        """See `generation.Generator`.

        Raises:
          UserError: a label out of range.
        """
        last = self.config.data.num_classes - 1
        outside = [int(label) for label in np.asarray(labels) if not 0 <= label <= last]
        if outside:
            raise UserError(f'the label {outside[0]} is out of range; classes are 0..{last}')
        return self._generator(self._params, seed, indices, labels, w)

    def flops_per_image(self, w: float) -> float:
        """See `generation.Generator`."""
        return self._generator.flops_per_image(self._params, w)


class TrainedModel(_Generating):
    """The newest checkpoint of a work directory, with its EMA parameters on every device.

    Args:
      path: the work directory.
      config: how to sample; by default the config it was trained with.
      rule: takes the place of classifier-free guidance; works with the network's parameters.

    Raises:
      UserError: not a work directory of a U-Net, or no complete checkpoint in it.
    """

    def __init__(
        self, path: epath.PathLike, config: ConfigDict | None = None, rule: Rule | None = None
    ):
        config = config or workdirs.read_config(path)
        params, self.step = _restore(path, config, 'unet')
        super().__init__(config, generation.make_generator(config, rule), params)

    def weights_sha256(self) -> str:
        """Hash of the EMA parameters."""
        return _sha256(self._params)

    def provenance(self) -> dict[str, Any]:
        """See `Model`."""
        return {
            'checkpoint_step': self.step,
            'weights': 'ema',
            'weights_sha256': self.weights_sha256(),
        }


class ClassifierGuidedModel(_Generating):
    """A trained U-Net, guided by a trained noisy classifier; `w` weighs the classifier's gradient.

    Args:
      path: work directory of the U-Net.
      classifier_path: work directory of the classifier.
      config: how to sample; by default the config the U-Net was trained with.
      form: 'mean' or 'eps', see `rules.ClassifierGuidance`.
      conditional: whether the U-Net is given the class too.

    Raises:
      UserError: as `TrainedModel`, for both; or networks that see other images, classes or noise
        levels; or form 'mean' with another sampler than the ancestral one.
    """

    def __init__(
        self,
        path: epath.PathLike,
        classifier_path: epath.PathLike,
        config: ConfigDict | None = None,
        *,
        form: str,
        conditional: bool,
    ):
        config = config or workdirs.read_config(path)
        if form == 'mean' and config.sampling.sampler != 'ancestral':
            raise UserError(
                'the mean of the transitions can be shifted in the ancestral sampler only; for'
                f' {config.sampling.sampler} shift eps'
            )
        classifier_config = workdirs.read_config(classifier_path)
        unet, self.step = _restore(path, config, 'unet')
        classifier, self._classifier_step = _restore(
            classifier_path, classifier_config, 'classifier'
        )
        _check_pair(config, classifier_config, 'classifier', classifier_path)
        self._how = {'form': form, 'conditional': conditional}
        self._classifier = models.make_classifier(classifier_config)
        rule = ClassifierGuidance(
            models.make_unet(config).apply,
            self._classifier.apply,
            config.data.num_classes,
            **self._how,
        )
        generator = generation.make_generator(config, rule)
        super().__init__(config, generator, GuidedNetworks(unet, classifier))
        self._log_probs = jax.jit(self._log_probs_at_the_end)

    def log_probs(self, x: jax.Array) -> jax.Array:
        """log p(c | x) of finished images [B, H, W, C] in [-1, 1], float32 [B, num_classes].

        By the noisy classifier, at the cleanest level that it knows.
        """
        return self._log_probs(self._params.classifier, x)

    def provenance(self) -> dict[str, Any]:
        """See `Model`."""
        return {
            'checkpoint_step': self.step,
            'weights': 'ema',
            'weights_sha256': _sha256(self._params.unet),
            'classifier_guidance': self._how
            | {
                'checkpoint_step': self._classifier_step,
                'weights_sha256': _sha256(self._params.classifier),
            },
        }

    def _log_probs_at_the_end(self, params: Any, x: jax.Array) -> jax.Array:
        logsnr = jnp.full(x.shape[:1], self.config.diffusion.logsnr_max)
        return jax.nn.log_softmax(self._classifier.apply(params, x, logsnr))


class AutoguidedModel(_Generating):
    """A trained U-Net guided by another one, smaller or trained less; see `rules.Autoguidance`.

    Args:
      path: work directory of the main U-Net.
      guide_path: work directory of the guide.
      config: how to sample; by default the config the main U-Net was trained with.

    Raises:
      UserError: as `TrainedModel`, for both; or networks that see other images, classes or noise
        levels.
    """

    def __init__(
        self, path: epath.PathLike, guide_path: epath.PathLike, config: ConfigDict | None = None
    ):
        config = config or workdirs.read_config(path)
        guide_config = workdirs.read_config(guide_path)
        main, self.step = _restore(path, config, 'unet')
        guide, self._guide_step = _restore(guide_path, guide_config, 'unet')
        _check_pair(config, guide_config, 'guide', guide_path)
        rule = Autoguidance(models.make_unet(config).apply, models.make_unet(guide_config).apply)
        super().__init__(config, generation.make_generator(config, rule), MainAndGuide(main, guide))

    def provenance(self) -> dict[str, Any]:
        """See `Model`."""
        return {
            'checkpoint_step': self.step,
            'weights': 'ema',
            'weights_sha256': _sha256(self._params.main),
            'autoguidance': {
                'checkpoint_step': self._guide_step,
                'weights_sha256': _sha256(self._params.guide),
            },
        }


def _restore(path: epath.PathLike, config: ConfigDict, kind: str) -> tuple[Any, int]:
    """EMA parameters on every device, and their step."""
    if config.model.kind != kind:
        words = {'unet': 'a diffusion model', 'classifier': 'a noisy classifier'}
        raise UserError(
            f'{path} holds {words[config.model.kind]}; this needs the work directory of'
            f' {words[kind]}'
        )
    state = jax.eval_shape(lambda: train_step.create_state(config))
    params, step = checkpoints.restore_ema(path, state.ema_params)
    return jax.device_put(params, devices.replicated()), step


def _check_pair(
    config: ConfigDict, other_config: ConfigDict, role: str, path: epath.PathLike
) -> None:
    for group, field in (
        ('data', 'image_size'),
        ('data', 'channels'),
        ('data', 'num_classes'),
        ('diffusion', 'logsnr_min'),
        ('diffusion', 'logsnr_max'),
    ):
        ours, theirs = config[group][field], other_config[group][field]
        if ours != theirs:
            raise UserError(
                f'the {role} in {path} has {group}.{field}={theirs}, the diffusion model'
                f' {ours}; train one that agrees'
            )


def _sha256(params: Any) -> str:
    leaves = jax.tree.leaves_with_path(jax.device_get(params))
    return files.sha256_of_arrays({jax.tree_util.keystr(p): leaf for p, leaf in leaves})
