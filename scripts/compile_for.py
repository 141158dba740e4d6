"""A config's programs compiled for a machine that is not here: whether they fit, and what they do.

    python scripts/compile_for.py --config=configs/imagenet64.py --topology=v5p:2x2x1
    python scripts/compile_for.py --config=configs/digits.py --topology=h100:8,v4-8 --remat=none
    python scripts/compile_for.py --config=configs/digits.py --topology=a100:8 --images_at_once=16
    python scripts/compile_for.py --tables=docs/launching.md

Compiles the pmapped training step and the guided trajectory as they would run, with the compilers
that `pip install -e '.[aot]'` brings; no parameter is allocated and no device is needed. ADM-64
takes minutes a program. Of the training it looks for the largest part of the config's batch that
fits a chip, by policy of remat, and so for the `train.grad_accum` that the machine needs;
--images_at_once compiles given parts instead. Results are kept in --out, a file for each config and
topology, and nothing is compiled twice. --tables writes what is kept there into a page, between the
lines that mark it as generated.

Times are estimates: operations at the chip's peak, bytes at its memory's rate, collectives at its
interconnect's. Topologies: TPU slices such as v4:2x2x1, v5e:2x4, v5p:2x2x1 and v6e:2x4, or v4-8,
v4-32, v5e-8, v5p-8 and v6e-8; GPUs such as a100:8, h100:8, h200:8 and h100:2x8 (two hosts).
"""

import json
from collections.abc import Sequence

from cfg_jax import cli
from cfg_jax.config_fields import REMATS
from cfg_jax.perf import xla


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument('--topology', type=cli.name_list, help='one or several, joined by commas')
    parser.add_argument('--programs', type=cli.name_list, default=('training', 'sampling'))
    parser.add_argument(
        '--remat', type=cli.name_list, help="policies tried in training; the config's and blocks"
    )
    parser.add_argument(
        '--images_at_once', type=cli.integer_list, help='on a chip; by default the most that fit'
    )
    parser.add_argument('--out', default='results/compile_for', help='where results are kept')
    parser.add_argument('--tables', default='', help='a page to write the kept results into')
    parser.add_argument('--config', metavar='FILE', help='such as configs/digits.py')
    options, overrides = cli.split_config(parser, argv)
    if bool(options.tables) == bool(options.config):
        parser.error('give --config and --topology, or --tables')
    if options.tables and (options.topology or overrides):
        parser.error('--tables compiles nothing: leave --topology and --config.FIELD out')
    if options.config and not options.topology:
        parser.error('--topology is missing, such as --topology=v5p:2x2x1')
    if unknown := set(options.programs) - {'training', 'sampling'}:
        parser.error(f'--programs are training and sampling; got {unknown.pop()}')
    if unknown := set(options.remat or ()) - set(REMATS):
        parser.error(f'--remat is out of {", ".join(REMATS)}; got {unknown.pop()}')
    if 0 in (options.images_at_once or ()):
        parser.error('--images_at_once are at least 1')
    xla.only_compile()

    from cfg_jax import config_files, files
    from cfg_jax.perf import compile_tables, compiled_programs

    if options.tables:
        page = files.as_path(options.tables)
        page.write_text(compile_tables.replaced(page.read_text(), files.as_path(options.out)))
        return
    config = config_files.load_config(options.config, overrides)
    wanted = dict.fromkeys(options.remat or (config.model.remat, 'blocks'))
    # All of them before the first is compiled, which may take an hour.
    machines = [
        compiled_programs.Kept(options.config, overrides, config, name, options.out)
        for name in options.topology
    ]
    for kept in machines:
        if 'training' in options.programs:
            for policy in wanted:
                kept.fit(policy, options.images_at_once)
        if 'sampling' in options.programs and 'sampler' in config:
            kept.sampling()
        print(compile_tables.of_one(kept.content()))
        print(json.dumps(kept.content()), flush=True)


if __name__ == '__main__':
    cli.run(main)
