"""What every command line shares: a user's mistake is one clear line and exit code 2, never a traceback."""

import argparse
from collections.abc import Callable
import difflib
from pathlib import Path
import re
import sys
import traceback

from absl import app, flags

from harmopower import config as configs
from harmopower.errors import CommandError, UserError
from harmopower.settings import refusal

HELP_CONFIG = "--help_config"
_OVERRIDE = re.compile(r"--?(?P<negated>no)?config\.(?P<key>[^=]*)")
_CONFIG_FILE = re.compile(r"--?config(=|$)")


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
    _refuse_overrides_of_nothing(values, argv)
    try:
        return values(argv)
    except flags.Error as error:
        raise CommandError(_explained(str(error))) from error
    except UserError:
        raise
    except Exception as error:  # whatever the user's config file, which is run here, can raise
        raise CommandError(f"--config: {_place(error)}{type(error).__name__}: {error}") from error


def _refuse_overrides_of_nothing(values: flags.FlagValues, argv: list[str]) -> None:
    """Settings without the config file that they change: absl would call each of them an unknown flag."""
    needs_file = "config" in values and values["config"].using_default_value and values["config"].value is None
    overridden = any(map(_OVERRIDE.match, argv[1:]))
    if needs_file and overridden and not any(map(_CONFIG_FILE.match, argv[1:])):
        raise CommandError("--config is missing; --help shows an example")


def _explained(text: str) -> str:
    """absl's line in our words, where it is about a setting or a flag that is missing."""
    missing = re.match(r"flag --(\w+)=None: Flag --\w+ must have a value", text)
    if missing:
        return f"--{missing[1]} is missing; --help shows an example"
    setting = re.match(r"flag --config\.([\w.]+)=(.*?): ", text, re.DOTALL)
    if setting and setting[1] in configs.SETTINGS:
        return refusal(setting[1], setting[2], configs.SETTINGS[setting[1]].legal)
    unknown = re.match(r"Unknown command line flag '([\w.]+)'", text)
    if unknown and unknown[1] in configs.SETTINGS:
        return f"{text.rstrip('.')}; settings are given as --config.{unknown[1]}=value"
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
        reason = str(error).partition("Failed loading config file config_config")[2]
        raise CommandError(_missing_file(reason) or f"--config: {reason}") from error
    return value


def _missing_file(reason: str) -> str:
    """The line for a config file that is not there; empty where it is something else."""
    missing = re.search(r"No such file or directory: '(.*)'", reason)
    if not missing:
        return ""
    given, there = missing[1], sorted(map(str, Path("configs").glob("*.py")))
    name = Path(given).name.removesuffix(".py")
    close = difflib.get_close_matches(name, [Path(path).stem for path in there], n=1)
    hint = f"; did you mean configs/{close[0]}.py?" if close else f"; there are {', '.join(there)}" if there else ""
    return f"--config {given} does not exist{hint}"


def refuse_arguments(argv: list[str]) -> None:
    """Raises CommandError for words that are no flags: a forgotten `--` must not pass unseen."""
    if len(argv) > 1:
        raise CommandError(f"unexpected argument {argv[1]!r}; settings are given as --config.key=value")


def _fail(error: BaseException, exit_code: int) -> None:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    sys.exit(exit_code)


def positive(text: str) -> int:
    """The type of a flag of argparse that counts something: a whole number of at least 1.

    Raises:
      ArgumentTypeError, ValueError: it is none; argparse makes a line of either.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number
