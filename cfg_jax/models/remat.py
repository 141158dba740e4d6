"""Blocks that keep less for the backward pass, by name, and compute the rest again there.

XLA for GPUs is free to leave all gradients of weights to the end of the backward pass, and
keeps for them what they are made of, computed again or not. So the gradients of a convolution's
features and kernel pass one barrier (`barriers.together`): what comes before it waits for both.
Where a block computes again, its inputs and parameters themselves pass one too.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.core import lift
from flax.linen import transforms

# Name -> which results of a block are kept, a policy of `jax.checkpoint`.
Policy = Callable[..., bool]


def _products(primitive: Any, *_: Any, **__: Any) -> bool:
    """Results of convolutions, matrix products and attention."""
    products = ('conv_general_dilated', 'dot_general', 'pallas_call')  # the last is attention's
    return primitive.name in products or primitive.name.startswith('dot_product_attention_fwd')


POLICIES: dict[str, Policy] = {
    'convolutions': _products,
    'blocks': jax.checkpoint_policies.nothing_saveable,
}


def remat(block: type[nn.Module], name: str, static_argnums: tuple[int, ...] = ()) -> Any:
    """The class `block`, whose modules keep what the policy of this name says, and their inputs.

    Args:
      block: its first argument is an array.
      name: 'none' changes nothing; 'convolutions' computes all but products again, 'blocks' all.
      static_argnums: arguments that are no arrays; `block` itself is number 0.
    """
    if name == 'none':
        return block
    again = nn.remat(block, static_argnums=static_argnums, policy=POLICIES[name])
    return transforms.lift_transform(_in_turn, again)


def _in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """A lifted function (scope, h, ...) whose gradients of variables and of h come together."""

    def inner(scope_of, repacked, variables, rngs, h, *others):
        variables, h = jax.lax.optimization_barrier((variables, h))
        scope = scope_of(variables, rngs)
        return function(scope, h, *others), repacked(scope)

    return lift.pack(inner, (True,), (True,), (True,), name='in_turn')
