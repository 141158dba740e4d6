"""Imported models against the original PyTorch code, from a clone of it that you make.

    git clone https://github.com/openai/guided-diffusion /tmp/guided-diffusion
    python tests/peers/compare.py adm --clone=/tmp/guided-diffusion
    python tests/peers/compare.py adm --clone=/tmp/guided-diffusion --full
    python tests/peers/compare.py adm --clone=/tmp/guided-diffusion --save=narrow.pt
    pip install timm torchdiffeq diffusers        # of DiT, SiT and the autoencoder

Needs PyTorch next to this package. Every parameter is random, those that start at zero too; the
file is written as the authors write theirs and read by our importer. Prints the largest difference
relative to the largest value: of outputs at random inputs, labels and noise levels over the whole
range (bar: 1e-5), and after ten sampling steps with the same noise (bar: 1e-4). Exit status 1 if
one is above its bar. --full repeats it once at the published sizes. --save writes a random ADM-64
of width 32 instead, with which the whole pipeline takes minutes on a CPU.
"""

import argparse
import importlib
import sys

import harness
import torch

FAMILIES = ('adm', 'edm', 'edm_openai', 'edm2', 'dit', 'sit', 'decoder')


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('family', choices=FAMILIES)
    parser.add_argument('--clone', required=True, help='a checkout of the original code')
    parser.add_argument('--full', action='store_true', help='the published sizes')
    parser.add_argument('--save', metavar='FILE', default='', help='adm: a narrow network')
    options = parser.parse_args()
    if options.save:
        importlib.import_module('adm').save_narrow(options.clone, options.save)
        return 0
    report = harness.Report()
    with torch.no_grad():
        importlib.import_module(options.family).compare(options.clone, report, options.full)
    return int(report.failed)


if __name__ == '__main__':
    sys.exit(main())
