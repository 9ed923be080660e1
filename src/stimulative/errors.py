"""The one error of this library for input that cannot be used."""


class UsageError(ValueError):
    """Something the user gave cannot be used, found before any work started.

    The message says what is wrong, what was given, what is allowed and what to do. The command line prints it
    without a traceback and exits with status 2.
    """
