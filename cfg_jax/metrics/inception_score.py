"""The Inception Score (Salimans et al. 2016)."""

import numpy as np
from jaxtyping import Float, Integer

from cfg_jax.metrics import Inputs, Value, given
from cfg_jax.metrics.bootstrap import standard_error

_SHUFFLE_SEED = 2020  # torch-fidelity's
_BEYOND_CHANCE = 4.0  # standard deviations: 3 in 100,000 sets


def inception_score(inputs: Inputs) -> Value:
    """The mean over splits; its deviation is over splits.

    The splits follow the file order, as in ADM's evaluator, whose files are in random order. Where
    the order depends on the class, every split lacks most classes and the value would say nothing
    of the samples: then they are permuted as torch-fidelity does, and a note says so.
    """
    logits = np.asarray(given(inputs.samples.logits, 'logits'))
    strata, note = inputs.strata, ''
    if order_depends_on_class(logits, inputs.splits):
        in_order = mean_over_splits(logits, inputs.splits)[0]
        note = (
            'IS: the order of the images depends on their class, so splits in file order (as in'
            f" ADM's evaluator) would give {in_order:.3f}; it is computed over a permutation with"
            f" torch-fidelity's seed {_SHUFFLE_SEED}"
        )
        shuffled = shuffle(len(logits))
        logits, strata = logits[shuffled], None if strata is None else strata[shuffled]
    mean, deviation = mean_over_splits(logits, inputs.splits)
    error = None
    if inputs.replicates:
        error = bootstrap_error(logits, inputs.splits, inputs.replicates, strata=strata)
    return Value(mean, error, deviation, note)


def mean_over_splits(logits: Float[np.ndarray, 'n k'], splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over splits of IS = exp(mean KL(p(y|x) || p(y))).

    The splits are consecutive parts of `logits`, of equal size up to one.
    """
    values = [
        of_one_split(log_p := log_softmax(part), np.full(len(log_p), 1.0 / len(log_p)))
        for part in np.array_split(logits, splits)
    ]
    return float(np.mean(values)), float(np.std(values))


def of_one_split(log_p: Float[np.ndarray, 'n k'], share: Float[np.ndarray, ' n']) -> float:
    """exp(KL) of one split; `share` is each image's part of it and sums to 1."""
    p = np.exp(log_p)
    marginal = share @ p
    log_marginal = np.log(np.clip(marginal, np.finfo(np.float64).tiny, None))
    return float(np.exp(share @ (p * (log_p - log_marginal)).sum(axis=1)))


def log_softmax(logits: Float[np.ndarray, 'n k']) -> Float[np.ndarray, 'n k']:
    """log p(y|x) in float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def shuffle(count: int) -> Integer[np.ndarray, ' n']:
    """The permutation that torch-fidelity applies before it splits."""
    return np.random.RandomState(_SHUFFLE_SEED).permutation(count)


def order_depends_on_class(logits: Float[np.ndarray, 'n k'], splits: int) -> bool:
    """Whether the splits hold other classes than chance would give them.

    Pearson's chi^2 of the table (split, likeliest class), whose mean under permutations is
    n / (n - 1) times its degrees of freedom, against chance by Wilson & Hilferty's cube root.
    """
    count = len(logits)
    classes = np.unique(np.argmax(logits, axis=1), return_inverse=True)[1]
    split = np.repeat(np.arange(splits), [len(s) for s in np.array_split(classes, splits)])
    table = np.zeros((splits, classes.max() + 1))
    np.add.at(table, (split, classes), 1)
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    if not freedom or count < 2:
        return False
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / count
    chi2 = ((table - expected) ** 2 / expected).sum() * (count - 1) / count
    spread = 2.0 / (9.0 * freedom)
    return bool((chi2 / freedom) ** (1 / 3) > 1.0 - spread + _BEYOND_CHANCE * spread**0.5)


def bootstrap_error(
    logits: Float[np.ndarray, 'n k'],
    splits: int,
    replicates: int,
    seed: int = 0,
    strata: Integer[np.ndarray, ' n'] | None = None,
) -> float:
    """Standard error of `mean_over_splits`, bootstrapped within each split."""
    errors = []
    for number, rows in enumerate(np.array_split(np.arange(len(logits)), splits)):
        log_p = log_softmax(logits[rows])
        errors.append(
            standard_error(
                lambda weights, log_p=log_p: of_one_split(log_p, weights / len(log_p)),
                len(rows),
                replicates,
                seed + number,
                None if strata is None else strata[rows],
            )
        )
    return float(np.linalg.norm(errors) / splits)
