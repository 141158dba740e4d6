"""A second kind of condition, for tests of the interface: a label and a vector for each image."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cfg_jax.errors import UserError

SIZE = 3


@dataclasses.dataclass(frozen=True)
class LabelAndVector:
    """{'label': int32 [B], 'vector': float32 [B, SIZE]}; null: `num_classes` and zeros."""

    num_classes: int

    def example(self):
        return {
            'label': jax.ShapeDtypeStruct((1,), jnp.int32),
            'vector': jax.ShapeDtypeStruct((1, SIZE), jnp.float32),
        }

    def null(self, condition):
        return {
            'label': jnp.full_like(condition['label'], self.num_classes),
            'vector': jnp.zeros_like(condition['vector']),
        }

    def encode(self, condition, features, dtype):
        label = nn.Embed(self.num_classes + 1, features, dtype=dtype, name='label')
        vector = nn.Dense(features, use_bias=False, dtype=dtype, name='vector')
        return label(condition['label']) + vector(condition['vector'])

    def draw(self, keys, indices, rule):
        labels = jnp.asarray(indices, jnp.int32) % self.num_classes
        return {
            'label': labels,
            'vector': jax.vmap(lambda key: jax.random.normal(key, (SIZE,)))(keys),
        }

    def from_labels(self, labels):
        angle = labels.astype(jnp.float32)[:, None] * jnp.arange(1.0, SIZE + 1)
        return {'label': labels, 'vector': jnp.cos(angle)}

    def from_user(self, values):
        if not all(len(vector) == SIZE for _, vector in values):
            raise UserError(f'a condition is a label and {SIZE} numbers')
        return {
            'label': np.int32([label for label, _ in values]),
            'vector': np.float32([vector for _, vector in values]),
        }
