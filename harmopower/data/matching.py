"""Where a caption names a thing: whole words, in the plural too."""

import functools
import re

# Endings of English nouns and what stands for them in the plural; the first that fits counts.
_PLURALS = (("man", "men"), ("foot", "feet"), ("person", "people"), ("mouse", "mice"), ("knife", "knives"))
_PLURALS += (("shelf", "shelves"), ("leaf", "leaves"), ("child", "children"), ("goose", "geese"), ("tooth", "teeth"))
_AS_THEY_ARE = ("sheep", "skis", "scissors", "fish", "deer", "pants", "jeans", "shorts")


def find(names: tuple[str, ...], caption: str) -> tuple[int, int] | None:
    """First and last-plus-one character of the first place where the caption has one of the names, None for nowhere.

    Args:
      names: such as `("dog", "puppy")`; case does not matter, white space of any length stands between words.
      caption: any text.
    """
    match = _pattern(names).search(caption)
    return match.span() if match else None


@functools.lru_cache(maxsize=4096)
def _pattern(names: tuple[str, ...]) -> re.Pattern:
    forms = [form for name in names for form in {name.lower(): None, plural(name.lower()): None} if form.strip()]
    words = (r"\s+".join(map(re.escape, form.split())) for form in sorted(forms, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{'|'.join(words) or '(?!)'})(?!\w)", re.IGNORECASE)


def plural(name: str) -> str:
    """The plural of an English noun in lower case; of several words, that of the last one."""
    if name.endswith(_AS_THEY_ARE):
        return name
    for one, many in _PLURALS:
        if name.endswith(one) and not name.endswith("human"):
            return name[: -len(one)] + many
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + ("es" if re.search(r"(s|x|z|ch|sh)$", name) else "s")
