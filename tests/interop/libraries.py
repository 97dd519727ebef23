"""Imports transformers and open_clip, in this order: transformers must not take the stand-in for torchvision."""
import transformers

transformers.utils.is_torchvision_available()  # remembers the answer

import torchvision_stand_in  # noqa: E402

torchvision_stand_in.install()

import open_clip  # noqa: E402, F401
