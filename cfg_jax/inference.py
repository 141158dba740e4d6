"""A trained model in Python: load, sample, eps.

Image i under seed s is the same picture whatever surrounds it: every random number of image i comes
from its own key fold_in(key(s), i), so neither the batch size, nor the number of devices, nor the
guidance weight changes its noise.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, guidance as guidance_lib, model_checks, settings
from cfg_jax.conditioning import Condition
from cfg_jax.conditioning.label import Label
from cfg_jax.data import class_names, sources
from cfg_jax.data.images import to_uint8
from cfg_jax.diffusion import ImageArray, Images, PerImage
from cfg_jax.distributed import devices
from cfg_jax.errors import UserError
from cfg_jax.guidance import RULES, Rule
from cfg_jax.guidance.guided import GuidedDenoiser, for_a_loop, weights_of_images
from cfg_jax.keys import Keys, image_keys, per_image_noise, stream
from cfg_jax.models import networks as networks_lib
from cfg_jax.perf.operations import count_flops
from cfg_jax.samplers import Sampler
from cfg_jax.samplers.editing import Edit, edit_loop
from cfg_jax.samplers.loop import sample_loop, trajectory

_CONDITION, _START, _STEPS, _GUIDANCE = range(4)  # the random streams of one image


class Generated(NamedTuple):
    """Images, still on the devices.

    Attributes:
      x: pixels, in [-1, 1] where the sampler clips, float32 [B, H, W, C].
      nfe: evaluations of networks that each image took, int32 [B].
    """

    x: Float[Array, 'B H W C']
    nfe: Integer[Array, ' B']


class Model:
    """A network, a guidance rule and a sampler put together.

    Args:
      config: what was trained, and how to sample: groups `guidance` and `sampler`. The model's
        own copy is frozen; `config.thawed` of it is one to change, for another model.
      params: of the networks by name, 'main' and what the rule needs; None if every call of
        `generate` brings them.
      networks: by name, those that the config does not describe: 'guide', 'classifier', and
        'decoder' (decoder(params, latents) -> images) for a model of latents, which is sampled in
        them; its images are decoded at the end.
      rule: instead of the config's: its name, 'name:option=value,...', or the rule itself.
      sampler: alike.
      provenance: what identifies the parameters.
      class_names: the data set's, where its files need not be asked.

    Raises:
      UserError: a rule without the network it needs, or one that the sampler cannot follow; levels
        that the sampler's grid does not have; a model of latents without a decoder.
    """

    def __init__(
        self,
        config: ConfigDict,
        params: Mapping[str, Any] | None = None,
        *,
        networks: Mapping[str, Any] | None = None,
        rule: str | Rule | None = None,
        sampler: str | Sampler | None = None,
        provenance: Mapping[str, Any] | None = None,
        class_names: Sequence[str] = (),
    ):
        # A later change would do nothing, silently: rule, sampler and networks are made here.
        self.config = config_lib.frozen(config)
        self.rule = settings.make_rule(config) if rule is None else guidance_lib.make_rule(rule)
        sampler = settings.make_sampler(config) if sampler is None else sampler
        self.sampler = settings.named_sampler(config, sampler)
        self.conditioning = networks_lib.make_conditioning(config)
        self.networks: dict[str, Any] = {'main': networks_lib.make_denoiser(config)}
        self.networks |= networks or {}
        self.params: Any = None
        if params is not None:
            self.params = jax.device_put(dict(params), devices.replicated())
        self._provenance = dict(provenance or {})
        self._class_names = list(class_names)
        model_checks.check_parts(self.rule, self.sampler, self.networks)
        if 'latent' in config and 'decoder' not in self.networks:
            raise UserError('this is a model of latents: give latent.decoder (--decoder)')
        # Of this model, not of the class, which would keep every model and its arrays for good.
        self._variant = functools.lru_cache(maxsize=16)(self._make_variant)
        self._unguided = devices.map_rows(self.device_images, whole=2, split=3)
        self._guided = devices.map_rows(self.device_images, whole=2, split=4)

    def __repr__(self) -> str:
        data, how = self.config.data, (type(self.rule).__name__, type(self.sampler).__name__)
        return (
            f'<Model of {data.name}: {data.image_size}x{data.image_size}x{data.channels},'
            f' {data.num_classes} classes, {how[0]}, {how[1]}, T = {self.sampler.num_steps}>'
        )

    def sample(
        self,
        condition: Sequence[Any],
        w: ArrayLike = 0.0,
        seed: int = 0,
        *,
        indices: Sequence[int] | None = None,
        guidance: str | Rule | None = None,
        sampler: str | Sampler | None = None,
        num_steps: int | None = None,
    ) -> np.ndarray:
        """Images as uint8 [B, H, W, C].

        Args:
          condition: one value per image, such as class ids or names of classes.
          w: guidance weight, a number or one per image; w = 0 is unguided.
          seed: of the whole set of images.
          indices: numbers of the images; by default 0, 1, 2, ...
          guidance: another rule: its name, 'name:option=value,...', or the rule itself.
          sampler: another sampler, alike.
          num_steps: another number of levels.

        Raises:
          UserError: lengths that disagree, a value out of range, an unknown rule or sampler.
        """
        model = self.with_settings(guidance, sampler, num_steps)
        given = self.condition_of(condition)
        indices = range(len(condition)) if indices is None else indices
        return np.asarray(to_uint8(model.generate(seed, indices, given, w).x))

    def with_settings(
        self,
        guidance: str | Rule | None = None,
        sampler: str | Sampler | None = None,
        num_steps: int | None = None,
    ) -> Model:
        """The same networks with another rule or sampler; itself if nothing changes."""
        rule = self.rule if guidance is None else guidance_lib.make_rule(guidance)
        other = self.sampler
        if sampler is not None:
            other = settings.named_sampler(self.config, sampler)
        if num_steps is not None:
            other = dataclasses.replace(other, num_steps=num_steps)
        if (rule, other) == (self.rule, self.sampler):
            return self
        return self._variant(rule, other)

    def _make_variant(self, rule: Rule, sampler: Sampler) -> Model:
        return Model(
            self.config,
            self.params,
            networks=self.networks,
            rule=rule,
            sampler=sampler,
            provenance=self._provenance,
            class_names=self._class_names,
        )

    def generate(
        self,
        seed: int,
        indices: Sequence[int] | np.ndarray,
        condition: Condition,
        w: ArrayLike,
        params: Mapping[str, Any] | None = None,
        edit: Edit | None = None,
    ) -> Generated:
        """Images by number.

        Args:
          seed: of the whole set of images.
          indices: numbers of the images, [B].
          condition: a pytree of arrays [B, ...].
          w: guidance weight, a number or one per image [B]. The number 0 costs one evaluation a
            level, unless the rule has terms without w; everything else costs what the rule takes
            and shares one compilation.
          params: instead of the model's own.
          edit: images to begin with; each strength and resample is a compilation of its own.

        Raises:
          UserError: lengths that disagree, a weight that is not finite in float32, or a seed or a
            number that 32 bits do not hold; an edit that does not fit, see `Edit.check`.
        """
        model_checks.check_numbers(seed, indices)
        count = len(indices)
        padded = -(-count // jax.local_device_count()) * jax.local_device_count()
        model_checks.check_lengths(count, condition, w)
        if edit is not None:
            edit.check(self.sampler, (count, *networks_lib.noise_shape(self.config)))

        def on_devices(values: ArrayLike) -> jax.Array:
            # One part a device: with many processes JAX asks for that, rather than doing it.
            values = np.asarray(values)
            filled = np.concatenate([values, np.repeat(values[-1:], padded - count, axis=0)])
            return jax.device_put(filled, devices.batch_sharding())

        arguments = [
            self.params if params is None else jax.device_put(params, devices.replicated()),
            jax.device_put(np.uint32(seed), devices.replicated()),
            on_devices(np.asarray(indices, np.uint32)),
            jax.tree.map(on_devices, condition),
            jax.tree.map(on_devices, edit),
        ]
        weights = weights_of_images(self.rule, self.config, w, count)
        w_of_images = () if weights is None else (on_devices(weights),)
        x, nfe = (self._guided if w_of_images else self._unguided)(*arguments, *w_of_images)
        return Generated(x[:count], nfe[:count])

    def trajectory(
        self,
        condition: Sequence[Any],
        w: ArrayLike = 0.0,
        seed: int = 0,
        *,
        indices: Sequence[int] | None = None,
        levels: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """How images form: z at every level as uint8 [T + 1, B, H, W, C], noise first.

        z has the variance-preserving scaling and is clipped to [-1, 1]; the last is the image, that
        of `sample` up to rounding. Arguments and errors as there.

        Args:
          levels: those that are returned, out of 0, ..., T; by default all.
        """
        given = self.condition_of(condition)
        indices = range(len(condition)) if indices is None else indices
        model_checks.check_numbers(seed, indices)
        numbers = np.asarray(indices, np.uint32)
        model_checks.check_lengths(len(numbers), given, w)
        weights = weights_of_images(self.rule, self.config, w, len(numbers))
        last = self.sampler.num_steps
        chosen = np.arange(last + 1) if levels is None else np.asarray(levels)
        if not np.all((chosen >= 0) & (chosen <= last)):
            raise UserError(f'levels are 0 to {last}; got {chosen.tolist()}')
        arguments = self.params, np.uint32(seed), numbers, given, weights
        return np.asarray(self._trajectory(chosen, *arguments))

    def condition_of(self, values: Sequence[Any]) -> Condition:
        """What a user names, one value per image; classes by id or by name.

        Raises:
          UserError: a value out of range, or a name that no class or several classes have.
        """
        values = values.tolist() if isinstance(values, np.ndarray) else values
        if isinstance(self.conditioning, Label) and isinstance(values, list | tuple):
            values = [
                class_names.number_of(value, self.class_names) if isinstance(value, str) else value
                for value in values
            ]
        return self.conditioning.from_user(values)

    @functools.cached_property
    def class_names(self) -> list[str]:
        """The data set's names of its classes; numbers where nothing here knows them."""
        return self._class_names or sources.names_or_numbers(self.config.data)

    def draw_conditions(self, seed: int, indices: ArrayLike, rule: str) -> Condition:
        """Conditions of images by number as a sweep draws them, on the host, [B, ...]."""
        keys = stream(image_keys(seed, indices), _CONDITION)
        return jax.tree.map(np.asarray, self.conditioning.draw(keys, indices, rule))

    def eps(self, z: Images, logsnr: PerImage, condition: Condition) -> ImageArray:
        """eps_theta(z, c) of the main network, [B, H, W, C]; see `Denoiser.eps`."""
        return self.networks['main'].eps(self.params['main'], z, logsnr, condition)

    def flops_per_image(self, w: float) -> float:
        """Floating-point operations that one image takes at guidance weight `w`."""
        count = jax.local_device_count()
        numbers = np.zeros(count, int)
        condition = self.draw_conditions(0, numbers, 'balanced')
        return (
            count_flops(lambda p: self.generate(0, numbers, condition, w, p).x, self.params) / count
        )

    def provenance(self) -> dict[str, Any]:
        """What decides the images, apart from the config: checkpoint, hashes, rule."""
        if self.rule == RULES.make(next(iter(RULES))):
            return dict(self._provenance)
        # As an instance with all its options, however they were written.
        rule = {'guidance': repr(self.rule), 'guidance_revision': self.rule.revision}
        return self._provenance | {key: value for key, value in rule.items() if value}

    def device_images(
        self,
        params: Mapping[str, Any],
        seed: Integer[Array, ''],
        indices: Integer[Array, ' B'],
        condition: Condition,
        edit: Edit | None,
        w: Float[Array, ' B'] | None = None,
    ) -> tuple[Float[Array, 'B H W C'], Integer[Array, ' B']]:
        """x [B, H, W, C] and nfe [B] of a device's images, traceable; w [B], or None for w = 0."""
        steps = self.sampler, *self.start(params, seed, indices, condition, w)
        x, state = sample_loop(*steps) if edit is None else edit_loop(*steps, edit)
        return self.decoded(params, x), jnp.broadcast_to(state.nfe, indices.shape)

    @functools.cached_property
    def _trajectory(self) -> Any:
        """The compiled function behind `trajectory`: z of levels, decoded, uint8."""

        def along(levels, params, seed, indices, condition, w):
            z = trajectory(self.sampler, *self.start(params, seed, indices, condition, w))[levels]
            # Level by level: images of all in float32 are gigabytes at 512 pixels.
            return jax.lax.map(lambda z_t: to_uint8(self.decoded(params, z_t)), z)

        return jax.jit(along)

    def start(
        self,
        params: Mapping[str, Any],
        seed: Integer[Array, ''],
        indices: Integer[Array, ' B'],
        condition: Condition,
        w: Float[Array, ' B'] | None,
    ) -> tuple[GuidedDenoiser, Float[Array, 'B ...'], Keys]:
        """What a sampler follows, z_1 [B, ...], and the keys [B] of its steps; traceable."""
        keys = image_keys(seed, indices)
        z = per_image_noise(stream(keys, _START), networks_lib.noise_shape(self.config))
        params = for_a_loop(self.networks, params, z, condition)
        guidance_keys = stream(keys, _GUIDANCE)
        predict = GuidedDenoiser(
            self.rule, self.networks, params, self.conditioning, condition, guidance_keys, w
        )
        return predict, z, stream(keys, _STEPS)

    def decoded(self, params: Mapping[str, Any], x: jax.Array) -> jax.Array:
        """Images of what was sampled: of latents by the decoder, else x itself."""
        if 'decoder' not in self.networks:
            return x

        def decode(latents: jax.Array) -> jax.Array:
            return self.networks['decoder'](params['decoder'], latents[None])[0]

        # One by one: at 512 pixels a layer of the decoder takes 256 MiB an image.
        return jax.lax.map(decode, x)
