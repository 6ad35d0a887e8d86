"""What is wrong with a user's set-up, in one paragraph."""


class SetupError(ValueError):
    """A mistake that the user can mend, with a message that says how; tools print it without a traceback."""

    def __init__(self, message: str = '') -> None:
        # PyTorch raises the error of a DataLoader's worker again, with the worker's traceback for a message; the
        # paragraph is its end.
        super().__init__(message.rpartition(f'{__name__}.{type(self).__qualname__}: ')[2].rstrip())


class RunError(SetupError):
    """A run cannot go on, for a reason outside of the program: the disk, the data, the learning rate.

    What it has saved stays, and the message says what it is.
    """


class Interrupted(Exception):
    """A run was asked to end by a signal, and has saved itself; tools exit with :attr:`STATUS`."""
    STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again, by --resume
