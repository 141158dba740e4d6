"""Shapes and dtypes that the library's functions promise, checked at every call in the tests.

conftest puts `checked` around the library's functions; beartype checks what jaxtyping annotates,
and nothing else.
"""

import contextlib
import re
from typing import get_args

import beartype
import jaxtyping

_SHAPED = re.compile(r'\b(Float|Integer|Int|Num|Key|UInt8|Bool|Shaped)\[')


def checked(function):
    """`function` with those of its arguments and results checked whose annotations have shapes."""
    hints = getattr(function, '__annotations__', {})
    shaped = {name: hint for name, hint in hints.items() if _has_shape(hint)}
    if not shaped:
        return function
    function.__annotations__ = shaped
    return beartype.beartype(function)


@contextlib.contextmanager
def unchecked():
    """Nothing is checked inside: as users run the library, for tests of its own messages."""
    jaxtyping.config.update('jaxtyping_disable', True)
    try:
        yield
    finally:
        jaxtyping.config.update('jaxtyping_disable', False)


def _has_shape(hint):
    if isinstance(hint, str):
        return bool(_SHAPED.search(hint))
    shaped = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return shaped or any(map(_has_shape, get_args(hint)))
