"""The exceptions that are not defects: what a user can mend, and a machine that is taken away."""


class UserError(Exception):
    """A failure that one sentence explains: commands print it and exit with status 2."""


def is_shortage(error: BaseException) -> bool:
    """Whether an allocation has failed: of XLA on a device, or of NumPy and Python."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and 'RESOURCE_EXHAUSTED' in str(error)
    )


class Preempted(Exception):
    """The machine is taken away; everything is saved. Commands exit with status 75.

    Attributes:
      together: whether all processes of the run stop so, after the same step.
    """

    together = False


class Interrupted(Preempted):
    """Ctrl-C; everything is saved. Commands exit with status 130."""


class Disconnected(Exception):
    """Other processes of the run are gone: nobody's mistake. Commands exit with status 1."""


class WorkerDied(Exception):
    """A data worker was killed, most likely for want of memory.

    Commands exit with status 75 if `saved`, so that launchers start the same command again as often
    as this happens, and with 1 otherwise.

    Attributes:
      saved: whether the run came further before that, and its state is saved.
    """

    def __init__(self, message: str, saved: bool = False):
        super().__init__(message, saved)
        self.saved = saved

    def __str__(self) -> str:
        return self.args[0]
