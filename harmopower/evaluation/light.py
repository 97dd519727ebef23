"""A quick look while a model is trained, so that fine-tuning that destroys zero-shot is seen at once.

`config.evaluation.light` names tasks of suites, such as `zero_shot/imagenet1k,retrieval/mscoco_captions,records/test`.
Of each the first examples are measured (5,000; retrieval on 1,000 images), class embeddings are made of the first 8
prompts of a class, and the results are called `light/imagenet1k/acc1`: they are none to compare with published ones.
"""

import difflib

from harmopower.errors import ConfigError
from harmopower.evaluation import suites
from harmopower.evaluation.suite import Task

CANDIDATES = 1_000  # images of retrieval in scenes and records


def tasks(config) -> tuple[dict[str, Task], list[str]]:
    """The tasks that `config.evaluation.light` names, each on its first examples; none for an empty one.

    Returns:
      The tasks by the names of their results, and a line for each whose data are not there: a machine that lacks a set
      can still train, and a misspelt name cannot pass as one.

    Raises:
      ConfigError: a suite or a task of it is unknown.
      DataSourceError: there is no data set.
    """
    smaller = config.copy_and_resolve_references()
    smaller.evaluation.candidates = CANDIDATES
    names = dict.fromkeys(name.strip() for name in config.evaluation.light.split(",") if name.strip())
    own: dict[str, dict[str, Task | str]] = {}
    for suite in dict.fromkeys(name.partition("/")[0] for name in names):
        if suite not in suites.SUITES:
            raise ConfigError(_unknown(config, suite, suites.SUITES))
        own[suite] = suites.SUITES[suite].tasks(smaller)
    found, skipped = {}, []
    for name in names:
        suite, _, task = name.partition("/")
        if task not in own[suite]:
            raise ConfigError(_unknown(config, name, [f"{suite}/{there}" for there in own[suite]]))
        chosen = own[suite][task]
        if isinstance(chosen, str):
            skipped.append(f"config.evaluation.light {name} is skipped: {chosen}")
        else:
            found[f"light/{task}"] = chosen.lighter()
    return found, skipped


def _unknown(config, name: str, there) -> str:
    close = difflib.get_close_matches(name, there, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; choose of {', '.join(there)}"
    return f"config.evaluation.light {config.evaluation.light!r}: there is no {name!r}{hint}"
