"""What is wrong with a user's set-up, in one paragraph."""


class SetupError(ValueError):
    """A mistake that the user can mend, with a message that says how; tools print it without a traceback."""

    def __init__(self, message: str = '') -> None:
        # PyTorch raises the error of a DataLoader's worker again, with the worker's traceback for a message; the
        # paragraph is its end.
        super().__init__(message.rpartition(f'{__name__}.{type(self).__qualname__}: ')[2].rstrip())
