"""Errors that a user can correct."""


class SegopsError(Exception):
    """A mistake of the user or a fault of the machine, with a message that says what to do.

    The message names the file, key or value and says what was expected. The command line prints it
    without a traceback and exits with a status other than zero.
    """


class TransientError(SegopsError):
    """A fault that may pass: a lost connection, a lock that another process holds.

    The flow tries again after this error only.
    """
