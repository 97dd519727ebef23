from typing import Any

from absl.flags import Flag, FlagHolder

from . import ConfigDict

def DEFINE_config_file(
    name: str, default: str | None = None, help_string: str = ..., **kwargs: Any
) -> FlagHolder[ConfigDict]: ...
def DEFINE_config_dict(
    name: str, config: ConfigDict, help_string: str = ..., **kwargs: Any
) -> FlagHolder[ConfigDict]: ...
def get_override_values(config_flag: Flag) -> dict[str, Any]: ...
