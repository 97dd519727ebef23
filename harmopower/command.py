"""What every command line shares: a user's mistake is one clear line and exit code 2, never a traceback."""

from collections.abc import Callable
import sys

from absl import app, flags

from harmopower.errors import CommandError, UserError

# What reading flags and files can raise when the command line or the data are wrong.
PARSE_ERRORS = (AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError, flags.Error)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses the flags, calls `main(argv)` and exits with its return value; --help prints the module's page instead."""
    if {"-h", "-help", "--help"} & set(sys.argv[1:]):
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
    try:
        argv = flags.FLAGS(sys.argv)
    except PARSE_ERRORS as error:
        _fail(error, 2)
    try:
        app.run(main, argv=argv, flags_parser=lambda args: args)
    except UserError as error:
        _fail(error, error.exit_code)


def loaded_config(value):
    """The value of a config flag.

    ml_collections puts off the error of a config file that it cannot load to the first use of the config.

    Raises:
      CommandError: the file cannot be loaded.
    """
    try:
        value.to_dict()
    except OSError as error:
        raise CommandError(
            f"--config: {str(error).partition('Failed loading config file config_config')[2]}"
        ) from error
    return value


def refuse_arguments(argv: list[str]) -> None:
    """Raises CommandError for words that are no flags: a forgotten `--` must not pass unseen."""
    if len(argv) > 1:
        raise CommandError(f"unexpected argument {argv[1]!r}; settings are given as --config.key=value")


def _fail(error: BaseException, exit_code: int) -> None:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    print("error: " + " ".join(text.split()), file=sys.stderr)
    sys.exit(exit_code)
