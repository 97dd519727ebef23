"""What a setting may be: each kind of legal value says in words what it takes, and refuses all else.

Bounds are those of the meaning (a share lies between 0 and 1), of the numbers (a decay close to 1 is 1 in float32), or,
where neither binds, far outside of what anybody would train with (our choice): a slip of the keyboard is refused.
"""

import dataclasses
import difflib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

FIXED, HISTORY, FREE = "fixed", "history", "free"
MANY = 2**20  # of what is counted
STEPS = 2**31 - 2  # the state counts them in an int32


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number between two bounds, which belong to it, or one of those in `also`."""

    lowest: int
    highest: int = MANY
    also: tuple[int, ...] = ()

    def accepts(self, value: Any) -> bool:
        """Whether the setting may be that."""
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.lowest <= value <= self.highest or value in self.also

    def __str__(self) -> str:
        return " or ".join([f"a whole number from {self.lowest} to {self.highest}", *map(str, self.also)])


@dataclasses.dataclass(frozen=True)
class Real:
    """A number between two bounds, which belong to it, or one of those in `also`; never infinite, never nan."""

    lowest: float
    highest: float
    also: tuple[float, ...] = ()

    def accepts(self, value: Any) -> bool:
        """Whether the setting may be that."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return self.lowest <= value <= self.highest or value in self.also

    def __str__(self) -> str:
        bounds = f"a number from {self.lowest:.7g} to {self.highest:.7g}"
        return " or ".join([bounds, *(f"{value:g}" for value in self.also)])


@dataclasses.dataclass(frozen=True)
class Numbers:
    """So many numbers, comma-separated in a text because a flag cannot set a tuple, each of one kind."""

    count: int
    each: Real

    def accepts(self, value: Any) -> bool:
        """Whether the setting may be that."""
        try:
            found = numbers(value)
        except (ValueError, AttributeError, TypeError):
            return False
        return len(found) == self.count and all(map(self.each.accepts, found))

    def __str__(self) -> str:
        return f"{self.count} comma-separated numbers, each {self.each}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some words."""

    choices: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        """Whether the setting may be that."""
        return isinstance(value, str) and value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(choice or 'nothing' for choice in self.choices)}"


@dataclasses.dataclass(frozen=True)
class Text:
    """A name or path on one line. What names there are, those say who look them up."""

    empty: bool = True

    def accepts(self, value: Any) -> bool:
        """Whether the setting may be that."""
        return isinstance(value, str) and value.isprintable() and (self.empty or bool(value.strip()))

    def __str__(self) -> str:
        return "text on one line" + (", or nothing" if self.empty else "")


@dataclasses.dataclass(frozen=True)
class Switch:
    """True or false."""

    def accepts(self, value: Any) -> bool:
        """Whether the setting may be that."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


class Setting(NamedTuple):
    """One key of the config: its default, what it may be, what it means, and what a resumed run may do with it."""

    default: Any
    legal: Whole | Real | Numbers | Choice | Text | Switch
    meaning: str
    resumed: str = FIXED  # or HISTORY, or FREE, see config.py


def refusal(key: str, value: Any, legal) -> str:
    """The line that says why a value is none, with the word that may have been meant."""
    close = difflib.get_close_matches(str(value), getattr(legal, "choices", ()), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"config.{key} {value!r} must be {legal}{hint}"


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of a setting that holds several, such as `model.pixel_mean`.

    Raises:
      ValueError: one of them is no number.
    """
    return tuple(float(number) for number in text.split(","))


def as_numbers(values) -> str:
    """The setting that `numbers` reads as these values."""
    return ",".join(str(float(value)) for value in values)


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """The settings in which two configs differ, as `config.key: old -> new`."""
    before, after = flat(old.to_dict()), flat(new.to_dict())
    return [
        f"config.{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def flat(tree: dict, prefix: str = "") -> dict:
    """A nested dictionary as one of dotted keys."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
