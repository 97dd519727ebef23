"""The errors of users: their text is the one line that a command prints, and `exit_code` what it ends with.

At the bottom of the house, so that every room can raise them. Exit codes as in README: 2 the user's mistake, 65 data,
69 a peer is lost, 70 numbers, 75 stopped and saved, 130 Ctrl-C.
"""


class UserError(Exception):
    """What the user can mend; the text names the key or record, both values and the rule."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A setting that cannot be used; its text names the key, the value and the rule."""


class CommandError(UserError):
    """Ends the command with `exit_code` and one line."""

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code


class RecordError(ValueError):
    """An example that cannot be used; the text names the record, what is wrong and both values."""
