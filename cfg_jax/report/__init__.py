"""One page of a sweep: the guidance slider, curves, table, training, cost and provenance."""
