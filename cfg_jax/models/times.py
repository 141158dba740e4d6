"""What networks take for their time: functions of log-SNR, made from the network's schedule."""

from collections.abc import Callable

import jax

from cfg_jax.diffusion import BetaSchedule, Schedule

Time = Callable[[jax.Array], jax.Array]  # logsnr [B] -> time [B]


def logsnr(schedule: Schedule) -> Time:
    """log-SNR itself."""
    return lambda logsnr: logsnr


def steps(schedule: BetaSchedule) -> Time:
    """The step of a discrete schedule, between two levels of its table a fraction."""
    return schedule.step


def edm(schedule: Schedule) -> Time:
    """ln(s) / 4 of the noise level s = exp(-logsnr / 2) (Karras et al. 2022)."""
    return lambda logsnr: -0.125 * logsnr


def flow(schedule: Schedule) -> Time:
    """alpha of the flow scaling, sigmoid(logsnr / 2): 0 is noise, 1 the image (Ma et al. 2024)."""
    return lambda logsnr: jax.nn.sigmoid(0.5 * logsnr)


def edm_steps(schedule: Schedule) -> Time:
    """250 ln(s): EDM's input on the scale of 1,000 steps, as consistency_models trained it."""
    return lambda logsnr: -125.0 * logsnr
