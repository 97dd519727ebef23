"""CLIP in plain PyTorch with OpenCLIP's names, for the proof where PyTorch is installed but OpenCLIP is not.

Written from OpenCLIP's `transformer.py` (the definition), not from ours, so that it can disagree with us.
"""

from collections import OrderedDict
import functools

import torch
from torch import nn


class _QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, activation, norm):
        super().__init__()
        self.ln_1, self.ln_2 = norm(width), norm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=activation(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, activation, norm):
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, heads, activation, norm) for _ in range(layers))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


def _patches(size, patch: int) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    return (height // patch) * (width // patch)


class _Vision(nn.Module):
    def __init__(self, shared: int, config: dict, activation, norm):
        super().__init__()
        width, patch = config["width"], config["patch_size"]
        self.mean = config["pool_type"] == "avg"
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(_patches(config["image_size"], patch) + 1, width))
        self.ln_pre, self.ln_post = norm(width), norm(width)
        self.transformer = _Transformer(width, config["layers"], width // config["head_width"], activation, norm)
        self.proj = nn.Parameter(torch.zeros(width, shared))

    def forward(self, images):
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.ln_post(self.transformer(self.ln_pre(x)))
        return (x[:, 1:].mean(dim=1) if self.mean else x[:, 0]) @ self.proj


class PlainCLIP(nn.Module):
    """An OpenCLIP model from its `model_cfg`; loads OpenCLIP's state dicts strictly."""

    def __init__(self, config: dict):
        super().__init__()
        text, vision = config["text_cfg"], config["vision_cfg"]
        norm = functools.partial(nn.LayerNorm, **vision["norm_kwargs"])
        gelu = functools.partial(nn.GELU, **vision.get("act_kwargs", {}))
        activation = _QuickGELU if config["quick_gelu"] else gelu
        self.end = text["eos_id"]
        self.visual = _Vision(config["embed_dim"], vision, activation, norm)
        self.token_embedding = nn.Embedding(text["vocab_size"], text["width"])
        self.positional_embedding = nn.Parameter(torch.zeros(text["context_length"], text["width"]))
        self.transformer = _Transformer(text["width"], text["layers"], text["heads"], activation, norm)
        self.ln_final = norm(text["width"])
        self.text_projection = nn.Parameter(torch.zeros(text["width"], config["embed_dim"]))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.logit_bias = nn.Parameter(torch.zeros(())) if "init_logit_bias" in config else None

    def encode_image(self, images):
        """Embeds normalised images `[B, 3, H, W]` as `[B, D]`."""
        return self.visual(images)

    def encode_text(self, ids):
        """Embeds token ids `[B, T]` as `[B, D]`."""
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), (ids == self.end).int().argmax(dim=1)] @ self.text_projection
