"""Published weights: safe readers of their files, and a family of models a file.

A new family is one file with an instance of `Family`, one line in `FAMILIES`, and its network in
`models` with one line in `models.PUBLISHED`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cfg_jax.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from ml_collections import ConfigDict

    from cfg_jax.pretrained.torch_archive import StateDict

FAMILIES = Registry(
    'family of published models',
    {
        'adm': ('cfg_jax.pretrained.adm:FAMILY', "openai/guided-diffusion's U-Nets"),
        'adm_classifier': (
            'cfg_jax.pretrained.adm:CLASSIFIERS',
            "openai/guided-diffusion's classifiers of noisy images",
        ),
        'edm': ('cfg_jax.pretrained.edm:NVLABS', "NVlabs/edm's ImageNet network (.pkl)"),
        'edm_openai': (
            'cfg_jax.pretrained.edm:OPENAI',
            "openai/consistency_models' EDM networks",
        ),
        'edm2': ('cfg_jax.pretrained.edm2:FAMILY', "NVlabs/edm2's ImageNet-64 networks (.pkl)"),
        'dit': ('cfg_jax.pretrained.dit:FAMILY', "DiT's and SiT's transformers of latents"),
        'decoder': (
            'cfg_jax.pretrained.decoder:FAMILY',
            "Stable Diffusion's autoencoder in diffusers' naming, its decoder",
        ),
    },
)


class Source(NamedTuple):
    """Where a parameter comes from.

    Attributes:
      name: of the tensor in the file.
      shape: that it must have there.
      convert: from the file's layout to ours; called with the tensor, and `gain` if there is one.
      gain: name of a tensor of one number; '' without.
    """

    name: str
    shape: tuple[int, ...]
    convert: Callable[..., np.ndarray]
    gain: str = ''


class Plan(NamedTuple):
    """What a file is, and how its parameters are made.

    Attributes:
      config: of the model that results, with sampler and sweep as in the publication.
      sources: parameter's path, such as 'params/conv_in/kernel', -> where it comes from.
      ignored: tensors of the file that are not parameters, such as buffers.
      findings: for the report: what was found, and what was assumed since shapes do not show it.
    """

    config: ConfigDict
    sources: Mapping[str, Source]
    ignored: frozenset[str]
    findings: Mapping[str, str]


class Family(Protocol):
    """Published models of one origin.

    Attributes:
      title: for people.
      origin: address of the code they were published with.
      licence: of the weights, in a few words.
      settings: a frozen dataclass of what tensors do not show; its fields are the options of
        import_checkpoint.py's --set, and its defaults those of the publication that fits.
    """

    title: str
    origin: str
    licence: str

    def recognises(self, state: StateDict) -> bool:
        """Whether the names of the tensors are this family's."""
        ...

    def plan(self, state: StateDict, settings: str) -> Plan:
        """How to make a model of the file.

        Args:
          state: of the file.
          settings: 'name=value,...' in place of what is assumed.

        Raises:
          UserError: naming the tensors that are not understood.
        """
        ...
