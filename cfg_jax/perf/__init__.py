"""Cost, speed and memory: counted, measured, profiled."""
