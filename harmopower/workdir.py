"""The folder of a run: one trainer at a time, and what a resumed run may change of what the run was begun with.

`config.json` and `tokenizer.json` belong to the checkpoints beside them; `run.json` says by fingerprints which data and
tokenizer made them, and `history.jsonl` what was changed at which step. Nothing is written before a resumed run has
passed every check, and each file appears whole or not at all.
"""

from collections.abc import Callable
import contextlib
import datetime
import difflib
import fcntl
import json
import os
import socket

import jax

from harmopower import config as configs
from harmopower.data import sources
from harmopower.data.tokenize import FILE_NAME, Tokenizer
from harmopower.errors import CommandError, ConfigError
from harmopower.settings import FIXED, FREE
from harmopower.training.checkpoints import Checkpoints
from harmopower.training.writers import write_file


class Lock:
    """Keeps every other trainer out of a workdir, as a context; the kernel gives it back when the process dies.

    The file `lock` says who holds it; a killed run leaves the file behind, which locks nobody out. On a file system
    without locks there is none, and that is said.
    """

    def __init__(self, workdir: str, name: str = "lock", given: str = ""):
        """Args:
        workdir: the folder.
        name: of the file in it.
        given: how the user says what is locked; empty: `--workdir DIR`.
        """
        self._workdir, self._path, self._given = workdir, os.path.join(workdir, name), given or f"--workdir {workdir}"
        self._file = None
        self._made_folder = False

    def __enter__(self):
        return self

    def take(self) -> None:
        """Takes the lock, and makes the folder where there is none.

        Raises:
          CommandError: another process holds it, or the folder cannot be written; the text says which.
        """
        try:
            self._made_folder = not os.path.isdir(self._workdir)
            os.makedirs(self._workdir, exist_ok=True)
            while not self._file:
                self._try()
        except OSError as error:
            raise CommandError(f"{self._given} cannot be written: {error.strerror}") from error
        holder = f"process {os.getpid()} on {socket.gethostname()}, since {_now()}"
        self._file.truncate(0)
        self._file.write(holder + "\n")
        self._file.flush()

    def _try(self) -> None:
        file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115, open as long as it is locked
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise CommandError(
                f"{self._given} is in use by {holder}; stop that first, or give another {self._given.split()[0]}"
            ) from error
        except OSError as error:
            print(f"{self._given} cannot be locked ({error.strerror}): start no second run in it")
        if os.path.exists(self._path) and os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
            self._file = file
        else:
            file.close()  # its holder removed it between the opening and the locking: once more

    def __exit__(self, *_):
        if self._file:
            with contextlib.suppress(FileNotFoundError):  # the user may have removed the folder meanwhile
                os.remove(self._path)
            self._file.close()
        if self._made_folder and os.path.isdir(self._workdir) and not os.listdir(self._workdir):
            os.rmdir(self._workdir)  # a refused run leaves nothing


def prepare(workdir: str, config, tokenizer: Tokenizer, allow: str = "") -> Callable[[int], None]:
    """Compares what the run is to be made of with what the workdir holds; changes nothing.

    Args:
      allow: keys of the config, comma-separated, whose fixed values may change.

    Returns:
      `begin(step)`, to be called once when every other check has passed: it writes config, tokenizer, fingerprints and
      history.

    Raises:
      CommandError: what is fixed differs; all differences are listed.
      ConfigError: a key of `allow` is unknown.
    """
    allowed = _allowed(allow, config)
    fingerprints = {"data": sources.fingerprint(config.data), "tokenizer": tokenizer.digest}
    changes = _changes(workdir, config, fingerprints) if Checkpoints(workdir).steps() else {}
    refused = {key: values for key, values in changes.items() if _is_fixed(key) and key not in allowed}
    if refused:
        differences = [f"config.{key} {_shown(old)} there, {_shown(new)} here" for key, (old, new) in refused.items()]
        raise CommandError(
            f"--workdir {workdir} holds a run made otherwise: {'; '.join(differences)}. Give what it was made with "
            f"or another --workdir, or go on with the new with --allow_changes={','.join(refused)}"
        )
    return lambda step: _begin(workdir, config, tokenizer, fingerprints, changes, step)


def _allowed(allow: str, config) -> set[str]:
    known = configs.flat(config.to_dict())
    keys = {key.strip().removeprefix("config.") for key in allow.split(",") if key.strip()}
    for key in keys - known.keys():
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"--allow_changes: {key} is no key of the config{hint}")
    return keys


def _is_fixed(key: str) -> bool:
    # The two that are known by contents are in the changes only where these differ. A key that is gone stays fixed.
    return key in ("data.source", "data.tokenizer") or _resumed(key) == FIXED


def _resumed(key: str) -> str:
    return configs.SETTINGS[key].resumed if key in configs.SETTINGS else FIXED


def _changes(workdir: str, config, fingerprints: dict) -> dict[str, tuple]:
    """Key -> stored and new value of all that differs, paths aside; for data and tokenizer their fingerprints."""
    stored = read_config(workdir)
    old, new = configs.flat(stored.to_dict()), configs.flat(config.to_dict())
    changes = {key: (old.get(key), new[key]) for key in sorted(new) if old.get(key) != new[key]}
    made_with = _made_with(workdir)
    for key, name in (("data.source", "data"), ("data.tokenizer", "tokenizer")):
        changed_path = changes.pop(key, None)
        if name in made_with and made_with[name] != fingerprints[name]:
            changes[key] = (made_with[name], fingerprints[name])
        elif name not in made_with and changed_path:  # a run from before there were fingerprints
            changes[key] = changed_path
    return changes


def _made_with(workdir: str) -> dict:
    """The fingerprints of data and tokenizer; of the data none where an older version made the run."""
    path, found = os.path.join(workdir, "run.json"), {}
    try:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
        if os.path.exists(os.path.join(workdir, FILE_NAME)):  # the file itself, in case that it was exchanged
            found["tokenizer"] = Tokenizer.load(os.path.join(workdir, FILE_NAME), workdir).digest
    except ValueError as error:  # of both: TokenizerError is one
        raise CommandError(f"--workdir {workdir}: {error}; put back what the run was made with") from error
    return found


def _shown(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return repr(value)


def read_config(workdir: str):
    """The config that the run was made with.

    Raises:
      CommandError: the folder holds no run, or the file is no config.
    """
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        raise CommandError(f"--workdir {workdir} has checkpoints but no config.json; put it back, or give another")
    with open(path, encoding="utf-8") as file:
        try:
            return configs.from_json(file.read())
        except ValueError as error:
            raise CommandError(f"{path} is no config: {error}; put back what the run was made with") from error


def _begin(workdir: str, config, tokenizer: Tokenizer, fingerprints: dict, changes: dict, step: int) -> None:
    if jax.process_index() != 0:
        return
    told = {key: values for key, values in changes.items() if _resumed(key) != FREE or _is_fixed(key)}
    if told:
        for key, (old, new) in told.items():
            print(f"changed since the run began: config.{key}: {_shown(old)} -> {_shown(new)}")
        _add_to_history(workdir, {"time": _now(), "step": step, "changes": told})
    os.makedirs(workdir, exist_ok=True)
    tokenizer.save(os.path.join(workdir, FILE_NAME + ".new"))
    os.replace(os.path.join(workdir, FILE_NAME + ".new"), os.path.join(workdir, FILE_NAME))
    write_file(os.path.join(workdir, "run.json"), json.dumps(fingerprints, indent=2) + "\n")
    write_file(os.path.join(workdir, "config.json"), configs.to_json(config))


def _add_to_history(workdir: str, entry: dict) -> None:
    path = os.path.join(workdir, "history.jsonl")
    text = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
    write_file(path, text + json.dumps(entry) + "\n")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
