"""What is wrong with a user's set-up, in one paragraph."""


class SetupError(ValueError):
    """A mistake that the user can mend, with a message that says how; tools print it without a traceback."""
