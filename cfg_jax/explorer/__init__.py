"""A local page where a person chooses classes, w, rule and sampler, and watches pictures form."""
