"""A page on this machine where you choose classes, seed, w, rule and sampler and see pictures form.

    python scripts/explore.py runs/quickstart              (a work directory, or an exported model)
    python scripts/explore.py adm64.safetensors --port=8421

Prints the address to open. The server listens on the loopback address only, so that nobody else
can reach it; from another machine use ssh -L 8420:127.0.0.1:8420. Each rule, sampler, number of
steps and of pictures is compiled, which takes seconds; eight settings are kept. Ctrl-C ends it.
Needs pip install -e '.[explore]'.
"""

from collections.abc import Sequence

from cfg_jax import cli


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        'model', metavar='MODEL', help='work directory, or exported or imported model'
    )
    parser.add_argument('--port', type=cli.natural_number, default=8420, help='0: any free one')
    parser.add_argument('--step', type=cli.natural_number, help='of the checkpoint; the newest')
    parser.add_argument('--guidance_network', default='', help='of rules with a second network')
    parser.add_argument('--decoder', default='', help='of a model of latents')
    options = parser.parse_args(argv)
    if options.port > 65535:
        parser.error('--port is at most 65535')
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        parser.error("the explorer needs starlette and uvicorn: pip install -e '.[explore]'")

    from cfg_jax import files, loading
    from cfg_jax.explorer import server
    from cfg_jax.explorer.studio import Studio

    # Before the model, which takes longer.
    with server.listen(options.port) as listener:
        model = loading.load(
            options.model,
            step=options.step,
            guidance_network=options.guidance_network,
            decoder=options.decoder,
        )
        server.serve(Studio(model, files.absolute(options.model).name), listener)


if __name__ == '__main__':
    cli.run(main)
