"""The one exception that is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the user asked for or gave cannot be used.

    The message is one sentence that says what is wrong, where, and what to do about it. The
    commands print it without a traceback and exit with code 2.
    """
