"""What figure2.py consists of: mixtures of Gaussians in closed form."""
