"""What every command line shares: a user's mistake is one clear line and exit code 2, never a traceback."""

from collections.abc import Callable
import re
import sys
import traceback

from absl import app, flags

from harmopower import config as configs
from harmopower.errors import CommandError, UserError
from harmopower.settings import refusal

HELP_CONFIG = "--help_config"
_OVERRIDE = re.compile(r"--?(?P<negated>no)?config\.(?P<key>[^=]*)")


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses the flags, calls `main(argv)` and exits with its return value.

    --help prints the module's page instead, --help_config every setting that `--config.KEY=VALUE` takes.
    """
    if {"-h", "-help", "--help"} & set(sys.argv[1:]):
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
    if {HELP_CONFIG, HELP_CONFIG[1:]} & set(sys.argv[1:]):
        print(configs.described())
        sys.exit(0)
    try:
        argv = parsed(flags.FLAGS, sys.argv)
        app.run(main, argv=argv, flags_parser=lambda args: args)
    except UserError as error:
        _fail(error, error.exit_code)


def parsed(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parses the flags; returns the words that are none.

    Raises:
      UserError: a flag or setting is missing, unknown or none of its legal values, or the config file fails.
    """
    for argument in argv[1:]:
        if override := _OVERRIDE.match(argument):
            configs.check_key(override["key"])
    try:
        return values(argv)
    except flags.Error as error:
        raise CommandError(_explained(str(error))) from error
    except UserError:
        raise
    except Exception as error:  # whatever the user's config file, which is run here, can raise
        raise CommandError(f"--config: {_place(error)}{type(error).__name__}: {error}") from error


def _explained(text: str) -> str:
    """absl's line in our words, where it is about a setting or a flag that is missing."""
    missing = re.match(r"flag --(\w+)=None: Flag --\w+ must have a value", text)
    if missing:
        return f"--{missing[1]} is missing; --help shows an example"
    setting = re.match(r"flag --config\.([\w.]+)=(.*?): ", text, re.DOTALL)
    if setting and setting[1] in configs.SETTINGS:
        return refusal(setting[1], setting[2], configs.SETTINGS[setting[1]].legal)
    return text


def _place(error: Exception) -> str:
    """Where in the config file it happened: `file, line N: `."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "get_config"]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""


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
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    sys.exit(exit_code)
