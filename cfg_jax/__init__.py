"""Classifier-Free Diffusion Guidance (Ho & Salimans, arXiv 2207.12598) in JAX."""

from cfg_jax import xla_flags

__version__ = '0.1.0'

xla_flags.set_defaults()  # before anything starts JAX
