"""What every command line shares: reading --config, lists and errors of one clear line.

It stands in the library, the only module that touches argv, because `scripts/` and `experiments/`
both use it and neither imports the other.
"""

import argparse
import errno
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import logging
from ml_collections import ConfigDict

from cfg_jax import config as config_lib, config_files, console, files
from cfg_jax.distributed import lifeline
from cfg_jax.errors import Disconnected, Interrupted, Preempted, UserError, WorkerDied, is_shortage
from cfg_jax.guidance import RULES, make_rule
from cfg_jax.models import role
from cfg_jax.perf import xla
from cfg_jax.pretrained import presets
from cfg_jax.samplers import GRIDS, SAMPLERS

PROCESS_OPTIONS = ('coordinator', 'num_processes', 'process_id')
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later
INTERRUPTED = 130  # as shells report Ctrl-C


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and exit status 2, and whose help keeps its layout."""

    def __init__(self, description: str, **kwargs):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # a misspelt option must not pass for another
            **kwargs,
        )
        self.add_argument(
            '--debug',
            action=_Sets,
            variable=console.DEBUG,
            help='show the traceback of every error',
        )

    def error(self, message: str) -> NoReturn:
        """Raises UserError, where argparse would print its usage and exit."""
        raise UserError(f'{message}; see {self.prog} --help')


class _Sets(argparse.Action):
    """Sets an environment variable to 1, here and for subprocesses."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, variable: str, **kwargs):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **kwargs)
        self._variable = variable

    def __call__(self, *args: object, **kwargs: object) -> None:
        os.environ[self._variable] = '1'


def run(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Runs `main(argv)` with the log shown; exit status 0, or 2 after one line on standard error.

    75 after a preemption with everything saved, 1 where other processes of the run are gone (see
    `lifeline`): launchers start the same command again. 130 after Ctrl-C. A data worker that was
    killed ends in 75 if steps were saved since the start, else in 1.

    Anything that is not a user's mistake keeps its traceback.
    """
    xla.set_flags()
    with console.log_shown():
        try:
            status = _status(main)
        except Exception as error:
            lifeline.end_after(error)  # ends it here where this is one process of many
            raise
    sys.exit(status)


def _status(main: Callable[[Sequence[str]], None]) -> int:
    warnings.filterwarnings('ignore', module='orbax|etils|google')
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as error:
        return _ended(error, f'error: {_sentence(error)}', 2)
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        reason = (str(error).strip().splitlines() or ['nothing could be allocated'])[0]
        line = f'error: not enough memory ({reason}); give a smaller batch or a smaller model'
        return _ended(error, line, 2)
    except Disconnected as error:
        return _ended(error, f'error: {error}', 1)
    except WorkerDied as error:
        return _ended(error, f'error: {error}', PREEMPTED if error.saved else 1)
    except Preempted as error:
        status = INTERRUPTED if isinstance(error, Interrupted) else PREEMPTED
        return _ended(error, f'{error}; the same command continues from here', status)
    except KeyboardInterrupt as error:
        return _ended(error, 'stopped at once', INTERRUPTED)
    except Exception as error:
        outage = files.outage(error)
        if outage is None:
            raise
        return _ended(error, f'error: {outage}; the same command continues once it does', 1)
    return 0


def _ended(error: BaseException, line: str, status: int) -> int:
    if console.debugging():
        traceback.print_exception(error)
    print(line, file=sys.stderr, flush=True)
    if not (isinstance(error, Preempted) and error.together):  # the others end by themselves
        lifeline.end(status, line)
    return status


def parse_with_config(parser: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, ConfigDict]:
    """Parses `argv`, --config=FILE and its overrides --config.FIELD=VALUE included.

    Raises:
      UserError: an unknown option or field, a value of the wrong type, a config that does not load.
    """
    parser.add_argument(
        '--config',
        metavar='FILE',
        required=parser.get_default('config') is None,
        help='such as configs/digits.py',
    )
    options, overrides = split_config(parser, argv)
    return options, config_files.load_config(options.config, overrides)


def split_config(parser: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses `argv` apart from its overrides --config.FIELD=VALUE, which come back as they are."""
    parser.add_argument(
        '--config.FIELD', metavar='VALUE', help='sets any field, such as --config.p_uncond=0.2'
    )
    overrides = [a for a in argv if a.startswith(('--config.', '-config.'))]
    return parser.parse_args([a for a in argv if a not in overrides]), overrides


def add_process_options(parser: Parser) -> None:
    """The options of a run of many processes, where no launcher sets them."""
    parser.add_argument('--coordinator', default='', help='HOST:PORT of process 0')
    parser.add_argument('--num_processes', type=natural_number, default=0, help='in the run')
    parser.add_argument('--process_id', type=natural_number, help='of this one, from 0')
    parser.add_argument(
        '--lost_after',
        type=positive_real,
        default=lifeline.LOST_AFTER,
        metavar='SECONDS',
        help='without a sign of another process, by default %(default)g: then this one ends too',
    )


def add_pdf_option(parser: Parser) -> None:
    """The option of commands that draw plots: `evaluation.plots.save` then writes PDFs too."""
    parser.add_argument(
        '--pdf',
        action=_Sets,
        variable=console.PDF,
        help='also write each plot as a PDF beside its PNG',
    )


def add_model_options(parser: Parser) -> None:
    """The options of commands that sample: which model, and how it is guided and sampled."""
    parser.add_argument(
        '--model', '--workdir', required=True, help='a work directory, or an exported model'
    )
    parser.add_argument('--preset', help='settings of a published number, see below')
    parser.add_argument(
        '--step', type=natural_number, help='of the checkpoint; by default the newest'
    )
    parser.add_argument(
        '--guidance',
        help='RULE, RULE:OPTION=VALUE,... or RULE+MODIFIER+..., see the end of this help',
    )
    parser.add_argument(
        '--guidance_network', help='model of the guide, or of the classifier, of rules with one'
    )
    parser.add_argument('--decoder', help='of a model of latents: what makes images of them')
    parser.add_argument('--sampler', help='NAME or NAME:OPTION=VALUE,...')
    parser.add_argument('--grid', help='where its levels lie, see the end of this help')
    parser.add_argument('--num_steps', type=int, help='T, levels of log-SNR')
    parser.add_argument(
        '--model_dtype', help='of the network: float32 or bfloat16; by default as trained'
    )
    parser.epilog = (
        f'guidance rules (their options: docs/options.md):\n{RULES.help()}\n\n'
        f'samplers:\n{SAMPLERS.help()}\n\ngrids:\n{GRIDS.help()}\n\n'
        f'presets of imported models (docs/published_models.md):\n{presets.help_text()}'
    )


def apply_model_options(config: ConfigDict, options: argparse.Namespace) -> None:
    """Sets what `add_model_options` was given in a config.

    Raises:
      UserError: a config of another kind of model, or a value out of range.
    """
    if 'sampler' not in config:
        what = 'a decoder' if role(config.model.kind) == 'decoder' else 'a noisy classifier'
        raise UserError(f'{options.model} holds {what}, which generates nothing')
    if options.preset is not None:
        preset = presets.apply(config, options.preset)
        if preset.network and not (options.guidance or options.guidance_network):
            raise UserError(
                f'the preset {options.preset} needs --guidance_network: the imported'
                f' {preset.network}'
            )
        if preset.published:
            logging.info('published, by the published network: %s', preset.published)
    if options.guidance is not None:
        make_rule(options.guidance)  # of an unknown name it says the closest one
        config.guidance.rule, config.guidance.options = options.guidance, ''
    if options.guidance_network is not None:
        config.guidance.network = options.guidance_network
    if options.decoder is not None:
        if 'latent' not in config:
            raise UserError(f'{options.model} makes images, not latents: it needs no --decoder')
        config.latent.decoder = options.decoder
    if options.sampler is not None:
        config.sampler.name, _, config.sampler.options = options.sampler.partition(':')
    if options.grid is not None:
        config.sampler.grid = options.grid
    if options.num_steps is not None:
        config.sampler.num_steps = options.num_steps
    if options.model_dtype is not None:
        config.model.dtype = options.model_dtype
    config_lib.validate(config)


def start_processes(options: argparse.Namespace, workdir: str) -> None:
    """Joins the processes of a run, before anything touches a device; see `processes.start`.

    From then on compilations are kept, see `xla.keep_compilations`.
    """
    from cfg_jax.distributed import multihost  # imports JAX, which --help does not need

    process_id = -1 if options.process_id is None else options.process_id
    multihost.start(options.coordinator, options.num_processes, process_id, options.lost_after)
    xla.keep_compilations(workdir)


def step_range(text: str) -> range:
    """'100:105' -> range(100, 105), for argparse's `type`."""
    first, _, last = text.partition(':')
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) < int(last)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a range of steps such as 100:105')
    return range(int(first), int(last))


def natural_number(text: str) -> int:
    """A whole number of at least 0, for argparse's `type`."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 0')
    return int(text)


def positive_number(text: str) -> int:
    """A whole number of at least 1, for argparse's `type`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 1')
    return int(text)


def real(text: str) -> float:
    """A finite number, for argparse's `type`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f'{text!r} is not a finite number')
    return number


def positive_real(text: str) -> float:
    """A finite number above 0, for argparse's `type`."""
    number = real(text)
    if number <= 0.0:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
    return number


def seed(text: str) -> int:
    """A whole number below 2^32, for argparse's `type`."""
    number = natural_number(text)
    if number >= 2**32:
        raise argparse.ArgumentTypeError(f'{text!r} is not a seed; seeds are below 2^32')
    return number


def number_list(text: str) -> tuple[float, ...]:
    """'0,0.1,0.5' -> (0.0, 0.1, 0.5), for argparse's `type`."""
    try:
        numbers = tuple(float(part) for part in text.split(','))
    except ValueError:
        numbers = ()
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of numbers such as 0,0.1,0.5')
    return numbers


def integer_list(text: str) -> tuple[int, ...]:
    """'3,3,7' -> (3, 3, 7), whole numbers of at least 0, for argparse's `type`."""
    parts = text.split(',')
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a list of whole numbers of at least 0 such as 3,3,7'
        )
    return tuple(int(part) for part in parts)


def class_list(text: str) -> tuple[int | str, ...]:
    """'3,goldfish' -> (3, 'goldfish'), ids and names of classes, for argparse's `type`."""
    parts = [part.strip() for part in text.split(',')]
    if not all(parts):
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of classes such as 3,3,7')
    return tuple(int(p) if p.removeprefix('-').isdecimal() else p for p in parts)


def name_list(text: str) -> tuple[str, ...]:
    """'fid,is' -> ('fid', 'is'), for argparse's `type`."""
    return tuple(name.strip() for name in text.split(',') if name.strip())


def _sentence(error: UserError | OSError) -> str:
    if isinstance(error, UserError):
        return ' '.join(str(error).split())
    known = files.refusal(error)
    if isinstance(error, FileNotFoundError):
        known = files.missing(error)
    if known:
        return known
    if error.errno == errno.ENOSPC:
        place = error.filename or 'the work directory'
        return f'no space left on the disk of {place}; free some and run again'
    where = f': {error.filename}' if error.filename else ''
    return f'{error.strerror or error}{where}'
