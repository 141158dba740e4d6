"""Devices, processes, and machines that are taken away."""
