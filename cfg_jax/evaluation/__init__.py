"""Sweeps over the guidance weight, references, tables and pictures."""
