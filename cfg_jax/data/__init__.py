"""Input: data sources, their preparation, and batches of images."""
