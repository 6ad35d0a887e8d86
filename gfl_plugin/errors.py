"""Errors whose message tells a user in one paragraph what is wrong and what to do."""


class SetupError(ValueError):
    """A mistake that the user can mend. The message says how, and the tools print it without a traceback."""

    def __init__(self, message: str = '') -> None:
        # PyTorch re-raises an error of a DataLoader's worker with the worker's traceback as its message. The traceback
        # ends in our paragraph.
        super().__init__(message.rpartition(f'{__name__}.{type(self).__qualname__}: ')[2].rstrip())


class RunError(SetupError):
    """A run cannot go on, for a reason outside of the program: the disk, the data or the learning rate.

    The run's checkpoints stay, and the message says which ones there are.
    """


class Interrupted(Exception):
    """A signal asked a run to end, and the run has saved itself. The tools exit with :attr:`STATUS`."""
    STATUS = 75  # EX_TEMPFAIL of sysexits.h: the user can try again, with --resume
