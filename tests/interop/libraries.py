"""Imports transformers and open_clip, with the stand-in where torchvision is missing."""

import transformers  # noqa: F401

from harmopower.interop import torchvision_stand_in

open_clip = torchvision_stand_in.import_open_clip()
