"""The errors of users: their text is the one line that a command prints, and `exit_code` what it ends with.

At the bottom of the house, so that every room can raise them.
"""

# How a command ends: 65 to 75 are those of sysexits.h, whose 75 says "try again"; 130 is the shell's for Ctrl-C.
FINISHED = 0
USER = 2  # the user's mistake
DATA = 65  # too many records cannot be used, or a term has no pairs
PEER = 69  # another process of the run is lost; start all of them again
NUMBERS = 70  # loss or gradient are no longer finite
STOPPED = 75  # told to stop, and saved; start it again
INTERRUPTED = 130  # Ctrl-C, and saved


class UserError(Exception):
    """What the user can mend; the text names the key or record, both values and the rule."""

    exit_code = USER


class ConfigError(UserError, ValueError):
    """A setting that cannot be used; its text names the key, the value and the rule."""


class CommandError(UserError):
    """Ends the command with `exit_code` and one line."""

    def __init__(self, message: str, exit_code: int = USER):
        super().__init__(message)
        self.exit_code = exit_code


class RecordError(ValueError):
    """An example that cannot be used; the text names the record, what is wrong and both values."""
