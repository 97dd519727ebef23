"""The part of torchvision that open_clip's import and evaluation transform need, on Pillow, for machines without it.

torchvision has no build for the CPU PyTorch that the tests pin. Its operations on Pillow images are thin wrappers
around Pillow's own, so these give the same pixels. What open_clip only imports is a class that cannot be used. The
proof of an export, the tests of interop and tools.benchmark use it.
"""

import enum
import importlib.util
import sys
import types
from typing import Any

import numpy as np
from PIL import Image
import torch


class InterpolationMode(enum.Enum):
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class Compose:
    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, image):
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    """One number: the shorter side, the other one rounded down; two: height and width."""

    def __init__(self, size, interpolation=InterpolationMode.BILINEAR):
        self.size, self.resample = size, Image.Resampling[interpolation.name]

    def __call__(self, image):
        if isinstance(self.size, int):
            width, height = image.size
            short = min(width, height)
            size = int(self.size * width / short), int(self.size * height / short)
        else:
            size = self.size[1], self.size[0]
        return image.resize(size, self.resample)


class CenterCrop:
    def __init__(self, size):
        self.size = (size, size) if isinstance(size, int) else size

    def __call__(self, image):
        (height, width), (columns, rows) = self.size, image.size
        top, left = int(round((rows - height) / 2.0)), int(round((columns - width) / 2.0))
        return image.crop((left, top, left + width, top + height))


class ToTensor:
    def __call__(self, image):
        return to_tensor(image)


def resize(image, size, interpolation=InterpolationMode.BILINEAR):
    """An image resized to height and width."""
    return Resize(size, interpolation)(image)


def to_tensor(image):
    return torch.from_numpy(np.array(image).transpose(2, 0, 1)).float() / 255


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def __call__(self, tensor):
        return (tensor - self.mean) / self.std


class _Unused:
    """A transform that open_clip's preprocessing for training is built of and nothing here calls."""

    def __init__(self, *arguments, **settings):
        super().__init__()


class FrozenBatchNorm2d(torch.nn.Module):
    """Only frozen ResNet towers need it; open_clip asks for the class when it is imported."""

    def __init__(self, *arguments, **settings):
        raise TypeError("the stand-in for torchvision has no FrozenBatchNorm2d; install torchvision for frozen ResNets")


def import_open_clip() -> Any:
    """The module open_clip, with torchvision or with the stand-in.

    Raises:
      ImportError: open_clip is not installed.
    """
    if importlib.util.find_spec("transformers"):
        from transformers.utils.import_utils import is_torchvision_available

        is_torchvision_available()  # remembers the answer: it must not take the stand-in
    install()
    import open_clip

    return open_clip


def install() -> None:
    """Puts the stand-in in torchvision's place, where torchvision is not installed."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision"):
        return
    unused = {
        name: type(name, (_Unused,), {})
        for name in ("RandomResizedCrop", "ColorJitter", "Grayscale", "RandomHorizontalFlip", "RandomCrop")
    }
    functional = _module("torchvision.transforms.functional", to_tensor=to_tensor, resize=resize)
    transforms = _module(
        "torchvision.transforms",
        functional=functional,
        InterpolationMode=InterpolationMode,
        Compose=Compose,
        Resize=Resize,
        CenterCrop=CenterCrop,
        ToTensor=ToTensor,
        Normalize=Normalize,
        **unused,
    )
    misc = _module("torchvision.ops.misc", FrozenBatchNorm2d=FrozenBatchNorm2d)
    ops = _module("torchvision.ops", misc=misc)
    _module("torchvision", transforms=transforms, ops=ops, __version__="0")


def _module(name: str, **members) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(members)
    module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
    sys.modules[name] = module
    return module
