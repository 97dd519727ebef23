"""Model sizes by name: from `tiny` for the embedded scenes to CLIP's own shapes (Radford et al. 2021, table 20)."""
import dataclasses
import difflib

from harmopower.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Tower:
    """Size of one transformer: `width` channels, `layers` blocks, `heads` attention heads."""

    width: int
    layers: int
    heads: int


@dataclasses.dataclass(frozen=True)
class Preset:
    """Size of a two-tower model; `shared` is the width D of the joint image-text space."""

    patch_size: int
    shared: int
    vision: Tower
    text: Tower


PRESETS = {
    "tiny": Preset(8, 128, Tower(128, 4, 4), Tower(128, 3, 4)),
    "ViT-S/16": Preset(16, 384, Tower(384, 12, 6), Tower(384, 12, 6)),
    "ViT-B/32": Preset(32, 512, Tower(768, 12, 12), Tower(512, 12, 8)),
    "ViT-B/16": Preset(16, 512, Tower(768, 12, 12), Tower(512, 12, 8)),
    "ViT-L/14": Preset(14, 768, Tower(1024, 24, 16), Tower(768, 12, 12)),
}


def get(name: str) -> Preset:
    """Returns the preset of that name.

    Raises:
      ConfigError: there is none; the text names the key and the presets there are.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"config.model.preset {name!r} is none of {', '.join(PRESETS)}{hint}")
    return PRESETS[name]
