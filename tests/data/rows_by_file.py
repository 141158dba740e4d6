"""What training sees of a set, by the names of its files."""

from support import make_tiny_config

from cfg_jax.data import pipeline, sources


def rows(name, split, num_classes=2):
    """{file: (label, image)} of a set, as training sees it."""
    data = make_tiny_config(data__name=name, data__num_classes=num_classes, data__channels=3).data
    (batch,) = pipeline.one_epoch(data, split, 1000)
    examples = sources.data_source(data, split)
    names = [examples[i]['file'] for i in range(len(examples))]
    names = [name.decode() if isinstance(name, bytes) else name for name in names]
    return dict(zip(names, zip(batch['condition'], batch['image'], strict=True), strict=True))
