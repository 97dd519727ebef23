"""The registry of evaluation suites: a suite is a module here and a line below."""

import difflib

from harmopower.errors import ConfigError
from harmopower.evaluation.suite import Suite, Task
from harmopower.evaluation.suites import boxes, composition, grounding, records, retrieval, scenes, zero_shot

_MODULES = (scenes, records, zero_shot, retrieval, composition, boxes, grounding)
SUITES: dict[str, Suite] = {module.SUITE.name: module.SUITE for module in _MODULES}


def chosen(names: str) -> list[Suite]:
    """The suites of a comma-separated list, as `config.evaluation.suite` is; none for an empty one.

    Raises:
      ConfigError: there is no such suite.
    """
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in SUITES:
            close = difflib.get_close_matches(name, SUITES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"config.evaluation.suite {name!r} is none of {', '.join(SUITES)}{hint}")
    return [SUITES[name] for name in dict.fromkeys(found)]


def tasks(config) -> dict[str, dict[str, Task | str]]:
    """Suite name -> task name -> the task, or why it is not there, of the suites that a config chooses.

    Raises:
      ConfigError: a suite is unknown, or two would give results of the same names.
    """
    found = {suite.name: suite.tasks(config) for suite in chosen(config.evaluation.suite)}
    owners: dict[str, str] = {}
    for suite, own in found.items():
        for task in own:
            if owners.setdefault(task, suite) != suite:
                raise ConfigError(
                    f"config.evaluation.suite {config.evaluation.suite!r}: {owners[task]} and {suite} both measure "
                    f"{task!r}; take one of them"
                )
    return found


def metric_names(config) -> list[str]:
    """The names of all results that the chosen suites can give: what `config.checkpoint.best` may name."""
    own = [
        f"{name}/{metric}"
        for found in tasks(config).values()
        for name, task in found.items()
        if isinstance(task, Task)
        for metric in task.metrics
    ]
    return own + [name for suite in chosen(config.evaluation.suite) for name in suite.averages]
