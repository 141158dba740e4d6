"""Accelerators: what their makers state of them, and by which names JAX knows them."""

import re
from typing import NamedTuple


class Accelerator(NamedTuple):
    """One chip.

    Attributes:
      peak_tflops: dense bfloat16 products (float16 on V100), without sparsity.
      memory_gib: on the chip's board.
      bandwidth: of that memory, GB/s.
      watts: of the board at most; None where the maker does not state it.
      device_kinds: words of JAX's `device_kind`, in lower case; none where a device of JAX's is
        not a whole chip, as the cores of a TPU v3.
      interconnect: what a chip sends to its neighbours over all its links, GB/s; None where they
        have no fabric of their own, as on PCIe.
      links: to neighbours; 1 where a switch connects all.
    """

    peak_tflops: float
    memory_gib: float
    bandwidth: float
    watts: float | None
    device_kinds: tuple[str, ...]
    interconnect: float | None = None
    links: int = 1


ACCELERATORS = {
    'v100': Accelerator(125.0, 32, 900, 300, ('v100',), 150),
    'v100-16gb': Accelerator(125.0, 16, 900, 300, ('v100-sxm2-16gb', 'v100-pcie-16gb'), 150),
    'a100': Accelerator(312.0, 80, 2039, 400, ('a100',), 300),
    'a100-40gb': Accelerator(312.0, 40, 1555, 400, ('a100-sxm4-40gb', 'a100-pcie-40gb'), 300),
    'h100': Accelerator(989.0, 80, 3350, 700, ('h100',), 450),
    'h100-pcie': Accelerator(756.0, 80, 2000, 350, ('h100 pcie',)),
    'h200': Accelerator(989.0, 141, 4800, 700, ('h200',), 450),
    'b200': Accelerator(2250.0, 180, 8000, 1000, ('b200',), 900),
    'l4': Accelerator(121.0, 24, 300, 72, ('nvidia l4',)),
    'tpu-v3': Accelerator(123.0, 32, 900, None, ()),
    'tpu-v4': Accelerator(275.0, 32, 1200, None, ('tpu v4',), 300, 6),
    'tpu-v5e': Accelerator(197.0, 16, 819, None, ('tpu v5 lite', 'tpu v5e'), 200, 4),
    'tpu-v5p': Accelerator(459.0, 95, 2765, None, ('tpu v5', 'tpu v5p'), 600, 6),
    'tpu-v6e': Accelerator(918.0, 32, 1640, None, ('tpu v6 lite', 'tpu v6e'), 448, 4),
}


def of_device(device_kind: str) -> Accelerator | None:
    """The chip of a `jax.Device.device_kind`, or None where it is not in the table.

    The longest words that `device_kind` contains decide: a 'TPU v5 lite' is not a 'TPU v5'. A slice
    of a GPU (MIG) is not in the table, nor is an H100 NVL.
    """
    if re.search(r'\b(mig|nvl)\b', device_kind.lower()):
        return None
    found = {
        words: chip
        for chip in ACCELERATORS.values()
        for words in chip.device_kinds
        if re.search(rf'\b{words}\b', device_kind.lower())
    }
    return found[max(found, key=len)] if found else None
