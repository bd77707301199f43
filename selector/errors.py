"""Errors that are part of the product: one line, what is wrong, what to do."""


class SelectorError(Exception):
    """Something went wrong in a run. The message is one line for the user; the command exits with 1."""

    exit_code = 1


class UsageError(SelectorError):
    """The user's input is wrong (a file, a key, an option). The command exits with 2."""

    exit_code = 2
