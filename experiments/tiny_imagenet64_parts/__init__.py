"""What tiny_imagenet64.py consists of."""
