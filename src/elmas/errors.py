"""The one exception that reaches a user as a single line."""


class UserError(Exception):
    """A mistake in the input or the environment that the user can mend.

    The message is one line and says what to change. Command lines print it without a traceback and exit with 2.
    """
