"""The one exception that means "the user can mend this"."""


class SegopsError(Exception):
    """A mistake of the user or of the machine, told in words a person can act on.

    The message names the file, key or value, says what was expected and what to do.
    The doors print it without a traceback and exit with a status other than zero.
    """


class TransientError(SegopsError):
    """What may succeed a moment later: a lost connection, a lock that another process holds.

    The flow tries again after this one, and after no other.
    """
