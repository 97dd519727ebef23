"""Model sizes by name: from `tiny` for the embedded scenes to CLIP's own shapes (Radford et al. 2021, table 20)."""

import dataclasses
import difflib
import re

from harmopower.errors import ConfigError


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
    "tiny": Preset(16, 128, Tower(128, 4, 4), Tower(128, 2, 4)),
    "ViT-S/16": Preset(16, 384, Tower(384, 12, 6), Tower(384, 12, 6)),
    "ViT-B/32": Preset(32, 512, Tower(768, 12, 12), Tower(512, 12, 8)),
    "ViT-B/16": Preset(16, 512, Tower(768, 12, 12), Tower(512, 12, 8)),
    "ViT-L/14": Preset(14, 768, Tower(1024, 24, 16), Tower(768, 12, 12)),
}


# A size spelled out, for published weights that no name above fits: width x layers x heads of each tower.
_SPELLED = re.compile(r"patch(\d+)-shared(\d+)-vision(\d+)x(\d+)x(\d+)-text(\d+)x(\d+)x(\d+)")


def get(name: str) -> Preset:
    """Returns the preset of that name, or of that spelled-out size, as `name_of` writes it.

    Raises:
      ConfigError: there is none; the text names the key and the presets there are.
    """
    spelled = _SPELLED.fullmatch(name)
    if spelled:
        return _spelled(name, [int(number) for number in spelled.groups()])
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"config.model.preset {name!r} is none of {', '.join(PRESETS)}{hint}")
    return PRESETS[name]


def _spelled(name: str, numbers: list[int]) -> Preset:
    patch_size, shared, *towers = numbers
    vision, text = Tower(*towers[:3]), Tower(*towers[3:])
    if min(numbers) < 1 or vision.width % vision.heads or text.width % text.heads:
        raise ConfigError(
            f"config.model.preset {name!r}: every number must be at least 1, and heads divide their width"
        )
    return Preset(patch_size, shared, vision, text)


def name_of(preset: Preset) -> str:
    """The name of a size, spelled out where it has none: `patch14-shared1024-vision1280x32x16-text1024x24x16`."""
    names = [name for name, known in PRESETS.items() if known == preset]
    towers = ["x".join(map(str, dataclasses.astuple(tower))) for tower in (preset.vision, preset.text)]
    return names[0] if names else f"patch{preset.patch_size}-shared{preset.shared}-vision{towers[0]}-text{towers[1]}"
