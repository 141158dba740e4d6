"""Classifier-Free Diffusion Guidance (Ho & Salimans, arXiv 2207.12598) in JAX."""

__version__ = '0.1.0'
