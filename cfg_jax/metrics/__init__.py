"""Measuring sets of images: feature extractors, streaming moments, scores."""
