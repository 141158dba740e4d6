"""Strata: images whose number is fixed, such as those of each label of balanced samples."""

import numpy as np
from jaxtyping import Integer


def groups(strata: Integer[np.ndarray, ' n']) -> list[np.ndarray]:
    """Images of one stratum each; what stands alone joins others, since one has no variance."""
    found = [np.flatnonzero(strata == value) for value in np.unique(strata)]
    alone = [group for group in found if len(group) == 1]
    found = [group for group in found if len(group) > 1]
    if len(alone) > 1 or not found:
        return [*found, *([np.concatenate(alone)] if alone else [])]
    if alone:
        found[0] = np.concatenate([found[0], alone[0]])
    return found
