"""Converts the published weights of the FID Inception to the .npz that the metrics read.

    python scripts/convert_inception.py pt_inception-2015-12-05-6726825d.pth inception.npz

SOURCE is one of these:
  pt_inception-2015-12-05-6726825d.pth, which you download yourself, from pytorch-fid's GitHub
    release fid_weights: https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights
    (the weights of TensorFlow's classify_image_graph_def.pb, which ADM's evaluator uses)
  an .npz in the format that this script writes.
A SOURCE may lack layers; the script says what OUT can and cannot serve.
"""

from collections.abc import Sequence

from cfg_jax import cli

SHOWN = 4  # missing tensors named for each tap


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('source', metavar='SOURCE', help='a .pth, .pt or .npz file')
    parser.add_argument('out', metavar='OUT', help='the .npz file to write')
    parser.add_argument(
        '--accept_unknown', action='store_true', help='take a SOURCE whose SHA-256 is not known'
    )
    options = parser.parse_args(argv)
    if not options.out.endswith('.npz'):
        parser.error(f'OUT must end in .npz; got {options.out}')

    import numpy as np

    from cfg_jax import files
    from cfg_jax.metrics.features import conversion
    from cfg_jax.metrics.features.inception_network import TAPS, layers, served_taps

    files.check_writable(options.out, source=options.source)
    arrays, record = conversion.convert(options.source, options.accept_unknown)
    source = f'{record["source"]}, SHA-256 {record["source_sha256"]}'
    files.write_npz(options.out, arrays | {'source': np.array(source)})
    print(f'source: {source}{"" if record["known"] else " (unknown to us)"}')
    print(f'wrote {options.out}, arrays of SHA-256 {files.sha256_of_arrays(arrays)}')
    served = served_taps({name.rpartition('/')[0] for name in arrays})
    print(f'serves: {", ".join(served) or "nothing"}')
    for tap in [tap for tap in TAPS if tap not in served]:
        needed = [f'{layer}/{part}' for layer in layers(tap) for part in ('w', 'b')]
        missing = [name for name in needed if name not in arrays]
        more = ', ...' if len(missing) > SHOWN else ''
        print(f'lacks {len(missing)} tensors for {tap}: {", ".join(missing[:SHOWN])}{more}')


if __name__ == '__main__':
    cli.run(main)
