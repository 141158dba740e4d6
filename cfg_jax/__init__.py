"""Classifier-Free Diffusion Guidance (Ho & Salimans, arXiv 2207.12598) in JAX."""

from cfg_jax.perf import xla

__version__ = '0.1.0'

xla.set_defaults()  # before anything starts JAX
