"""Registries: the names that config fields and flags select, each loaded when it is first used.

Reading the names imports neither JAX nor anything that needs it: `--help` lists them at once.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from cfg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Entry:
    """One name of a registry.

    Attributes:
      target: 'module:attribute', what the name stands for.
      summary: one line for `--help`.
    """

    target: str
    summary: str


_E = TypeVar('_E', bound=Entry)


class Registry(Mapping[str, _E], Generic[_E]):
    """Names of one kind of thing, in the order in which `--help` lists them.

    Args:
      kind: what the names are called in messages, such as 'guidance rule'.
      entries: name -> ('module:attribute', 'one line'), or an `Entry` that says more.
    """

    def __init__(self, kind: str, entries: Mapping[str, tuple[str, str]] | Mapping[str, _E]):
        self.kind = kind
        self._entries = {
            name: entry if isinstance(entry, Entry) else cast(_E, Entry(*entry))
            for name, entry in entries.items()
        }

    def __getitem__(self, name: str) -> _E:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Any:
        """What `name` stands for.

        Raises:
          UserError: the registry does not hold the name.
        """
        if name not in self._entries:
            raise UserError(
                f'there is no {self.kind} {name!r}{suggestion(name, self)}; choose one of'
                f' {", ".join(self)}'
            )
        module, _, attribute = self._entries[name].target.partition(':')
        return getattr(importlib.import_module(module), attribute)

    def make(self, name: str, options: str = '', **settings: Any) -> Any:
        """An instance of the frozen dataclass `name`, with options as text and settings as values.

        Args:
          name: of a dataclass.
          options: 'lowest=0.3,highest=5': fields of the dataclass, parsed by their defaults' types.
          settings: further fields; those that the dataclass lacks are an error.

        Raises:
          UserError: no such name or option, or a value of the wrong type or range.
        """
        cls = self.load(name)
        parsed = parse_options(cls, options, f'{self.kind} {name!r}')
        try:
            return cls(**settings | parsed)
        except ValueError as error:
            raise UserError(f'{self.kind} {name!r}: {error}') from error

    def help(self, names: Iterable[str] | None = None) -> str:
        """The names, all or these, with their summaries, a line each."""
        chosen = list(self if names is None else names)
        width = max(map(len, chosen))
        return '\n'.join(f'  {name:{width}}  {self[name].summary}' for name in chosen)


def parse_options(cls: type, text: str, owner: str) -> dict[str, Any]:
    """'lowest=0.3,highest=5' -> {'lowest': 0.3, 'highest': 5.0} for the fields of a dataclass.

    Raises:
      UserError: naming `owner`, for an unknown option or a value of the wrong type.
    """
    types = {name: type(default) for name, default in option_defaults(cls).items()}
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(','))):
        name, equals, value = (piece.strip() for piece in part.partition('='))
        if name not in types or not equals:
            known = ', '.join(f'{known}=...' for known in types) or 'none'
            raise UserError(f'{owner} has no option {part!r}; its options: {known}')
        try:
            options[name] = _PARSERS[types[name]](value)
        except (KeyError, ValueError):
            raise UserError(f'{owner}: {name}={value!r} is not {_WORDS[types[name]]}') from None
    return options


def option_defaults(cls: type) -> dict[str, Any]:
    """The fields of a dataclass that `parse_options` sets, with their defaults."""
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if type(field.default) in _PARSERS
    }


_WORDS: dict[type, str] = {
    float: 'a number',
    int: 'a whole number',
    str: 'a text',
    bool: 'true or false',
}
_PARSERS: dict[type, Callable[[str], Any]] = {
    float: float,
    int: int,
    str: str,
    bool: lambda text: {'true': True, 'false': False}[text.lower()],
}


def suggestion(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' where something known is close to `word`, else ''."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    if not close:
        tails = {name.rpartition('.')[2]: name for name in known}
        close = [tails[t] for t in difflib.get_close_matches(word.rpartition('.')[2], tails, n=1)]
    return f'; did you mean {close[0]!r}?' if close else ''


# What lives in single files; folders keep the registry of their things themselves.
SCHEDULES = Registry(
    'schedule',
    {
        'cosine': ('cfg_jax.diffusion:CosineSchedule', 'the paper: logsnr = -2 log tan(a u + b)'),
        'shifted_cosine': (
            'cfg_jax.diffusion:ShiftedCosineSchedule',
            'cosine plus a constant log-SNR, for larger images (Hoogeboom et al. 2023)',
        ),
        'linear_beta': (
            'cfg_jax.diffusion:LinearBetaSchedule',
            "DDPM's 1,000 discrete steps of linear beta, interpolated",
        ),
        'cosine_beta': (
            'cfg_jax.diffusion:CosineBetaSchedule',
            "improved DDPM's 1,000 discrete steps of cosine alpha^2, interpolated",
        ),
        'flow': (
            'cfg_jax.diffusion:FlowSchedule',
            'uniform in the t of a rectified flow: logsnr = 2 ln((1 - t) / t)',
        ),
    },
)
SCALINGS = Registry(
    'scaling',
    {
        'variance_preserving': (
            'cfg_jax.diffusion:VARIANCE_PRESERVING',
            'the paper: alpha^2 + sigma^2 = 1',
        ),
        'flow': ('cfg_jax.diffusion:FLOW', 'rectified flow: alpha + sigma = 1, t = sigma'),
        'edm': ('cfg_jax.diffusion:EDM', 'variance exploding: alpha = 1'),
    },
)
TARGETS = Registry(
    'target',
    {
        'eps': ('cfg_jax.diffusion:EPS', 'the noise (the paper)'),
        'x': ('cfg_jax.diffusion:X', 'the image'),
        'v': ('cfg_jax.diffusion:V', 'alpha eps - sigma x (Salimans & Ho 2022)'),
        'velocity': ('cfg_jax.diffusion:VELOCITY', 'eps - x (rectified flow)'),
    },
)
TIMES = Registry(
    'time input',
    {
        'logsnr': ('cfg_jax.models.times:logsnr', 'log-SNR itself (the paper)'),
        'steps': ('cfg_jax.models.times:steps', "the number of the schedule's step, from 0"),
        'edm': ('cfg_jax.models.times:edm', 'ln(s) / 4 of the noise level s (EDM)'),
        'flow': ('cfg_jax.models.times:flow', 'alpha of a rectified flow, 0 at noise (SiT)'),
        'edm_steps': ('cfg_jax.models.times:edm_steps', '250 ln(s) (consistency_models)'),
    },
)
PRECONDITIONINGS = Registry(
    'preconditioning',
    {
        'none': ('cfg_jax.models.preconditioning:NONE', 'the network itself (the paper)'),
        'edm': ('cfg_jax.models.preconditioning:EDM', 'Karras et al. 2022, of eps'),
    },
)
WEIGHTINGS = Registry(
    'loss weighting',
    {
        'eps': ('cfg_jax.losses:weight_eps', "the paper's: mean squared error of eps"),
        'x': ('cfg_jax.losses:weight_x', 'mean squared error of x'),
        'v': ('cfg_jax.losses:weight_v', 'mean squared error of v'),
        'velocity': ('cfg_jax.losses:weight_velocity', 'mean squared error of the flow velocity'),
    },
)
