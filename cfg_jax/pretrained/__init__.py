"""Published weights: safe readers of their files."""
