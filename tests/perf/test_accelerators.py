"""The table of accelerators: which device is which, and numbers that fit each other."""

import pytest

from cfg_jax.perf.accelerators import ACCELERATORS, of_device


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('Tesla V100-SXM2-32GB', 'v100'),
        ('Tesla V100-SXM2-16GB', 'v100-16gb'),
        ('Tesla V100-PCIE-16GB', 'v100-16gb'),
        ('NVIDIA A100-SXM4-80GB', 'a100'),
        ('NVIDIA A100-PCIE-40GB', 'a100-40gb'),
        ('NVIDIA H100 80GB HBM3', 'h100'),
        ('NVIDIA H100 PCIe', 'h100-pcie'),
        ('NVIDIA H200', 'h200'),
        ('NVIDIA L4', 'l4'),
        ('TPU v4', 'tpu-v4'),
        ('TPU v5 lite', 'tpu-v5e'),
        ('TPU v5p', 'tpu-v5p'),
        ('TPU v5', 'tpu-v5p'),
        ('TPU v6 lite', 'tpu-v6e'),
    ],
)
def test_device_kinds(kind, name):
    assert of_device(kind) is ACCELERATORS[name]


@pytest.mark.parametrize(
    'kind',
    [
        *('cpu', 'TPU v3', 'NVIDIA L40S', 'NVIDIA GH200 480GB', 'TPU v7'),
        *('NVIDIA H100 80GB HBM3 MIG 1g.10gb', 'NVIDIA H100 NVL'),
    ],
)
def test_others_are_not_guessed(kind):
    """A GH200's memory is another one's, a device of a TPU v3 half a chip, of MIG a slice."""
    assert of_device(kind) is None


def test_every_device_kind_names_one_chip():
    for name, chip in ACCELERATORS.items():
        for words in chip.device_kinds:
            assert of_device(words.upper()) is ACCELERATORS[name]


def test_operations_for_a_byte():
    """All of them take some 50 to 600 operations in the time of a byte: a slip of a unit shows."""
    for chip in ACCELERATORS.values():
        assert 50 < chip.peak_tflops * 1e12 / (chip.bandwidth * 1e9) < 600
        assert 10 < chip.memory_gib < 300
