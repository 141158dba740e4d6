"""Imports a published checkpoint: recognised by its tensors, checked, written as safetensors.

    python scripts/import_checkpoint.py 64x64_diffusion.pt --out=adm64.safetensors
    python scripts/sweep.py --model=adm64.safetensors --preset=adm64 --inception=inception.npz

FILE is as its authors published it; no code in it is run. OUT takes the place of a work directory
in sample.py, sweep.py, describe.py and cfg_jax.load(). Files, licences and published numbers:
docs/published_models.md. What tensors do not show is assumed as published; --set changes it.

families:
{families}
"""

from collections.abc import Sequence

from cfg_jax import cli
from cfg_jax.pretrained import FAMILIES


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__.format(families=FAMILIES.help()))
    parser.add_argument('file', metavar='FILE', help='a published checkpoint')
    parser.add_argument('--out', required=True, help='a .safetensors file')
    parser.add_argument(
        '--set',
        default='',
        help='NAME=VALUE,... of what tensors do not show, see the report',
    )
    options = parser.parse_args(argv)

    from cfg_jax import files
    from cfg_jax.pretrained import importing
    from cfg_jax.training import export

    export.check_suffix(options.out)
    files.check_writable(options.out, source=options.file)
    published = importing.open_published(options.file, options.set)
    record = importing.write(published, options.out)
    findings = published.plan.findings | {
        'parameters': f'{record["parameters"]:,}',
        'SHA-256': record['file_sha256'],
        'licence': published.family.licence,
    }
    print(f'{options.file}: {published.family.title} ({published.family.origin})')
    for name, value in findings.items():
        print(f'  {name:20} {value}')
    print(f'written to {options.out}')


if __name__ == '__main__':
    cli.run(main)
