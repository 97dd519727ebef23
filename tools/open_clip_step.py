"""open_clip's train step on the same model, batch and precision as ours, for tools.benchmark."""

import contextlib
import os

import numpy as np
import torch

from harmopower.interop import torchvision_stand_in


def make_run(model, config, batch):
    """Builds the step: forward, contrastive loss, backward, clipping, AdamW; its images are normalised beforehand.

    Args:
      model: our CLIP module, whose sizes are used; pooling is open_clip's own where it lacks ours, at the same cost.
      config: the run's config, for precision, optimizer and kind of loss.
      batch: `image` uint8 [B, H, W, 3] and `tokens` int32 [B, T].

    Returns:
      a function that does one step and waits for it, and None; or None and why there is none.
    """
    import jax

    if jax.default_backend() != "cpu" and not torch.cuda.is_available():
        return None, "torch sees no GPU"
    if jax.default_backend() == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() != "cpu" else "cpu"
    theirs, loss = _build(model, device)
    optimizer = _optimizer(theirs, config.optimizer)
    images, tokens = (tensor.to(device) for tensor in _inputs(model, batch))
    mixed = config.model.dtype == "bfloat16"
    precision = torch.autocast(device, torch.bfloat16) if mixed else contextlib.nullcontext()

    def run():
        optimizer.zero_grad()
        with precision:
            value = loss(**theirs(images, tokens), output_dict=False)
        value.backward()
        if config.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), config.optimizer.clip_norm)
        optimizer.step()
        return value.item()

    return run, None


def _build(model, device: str):
    open_clip = torchvision_stand_in.import_open_clip()
    vision, text, sigmoid = model.preset.vision, model.preset.text, model.loss == "sigmoid"
    theirs = open_clip.model.CLIP(
        embed_dim=model.preset.shared,
        vision_cfg=dict(
            image_size=model.shape,
            patch_size=model.preset.patch_size,
            width=vision.width,
            layers=vision.layers,
            head_width=vision.width // vision.heads,
            pool_type="avg" if model.pool == "mean" else "tok",
        ),
        text_cfg=dict(
            context_length=model.context_length,
            vocab_size=model.vocabulary,
            width=text.width,
            heads=text.heads,
            layers=text.layers,
        ),
        quick_gelu=model.transformer["activation"] == "quick_gelu",
        init_logit_bias=-10.0 if sigmoid else None,
        output_dict=True,
    )
    theirs.set_grad_checkpointing(model.transformer["remat"] != "none")
    return theirs.to(device).train(), open_clip.loss.SigLipLoss() if sigmoid else open_clip.loss.ClipLoss()


def _optimizer(theirs, settings):
    """AdamW with open_clip's two groups: gains, biases and scales are not decayed."""
    plain = [parameter for parameter in theirs.parameters() if parameter.ndim < 2]
    decayed = [parameter for parameter in theirs.parameters() if parameter.ndim >= 2]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": settings.weight_decay}]
    return torch.optim.AdamW(groups, settings.learning_rate, (settings.b1, settings.b2), settings.epsilon)


def _inputs(model, batch):
    pixels = (batch["image"] / np.float32(255) - np.float32(model.pixel_mean)) / np.float32(model.pixel_std)
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return images, torch.from_numpy(batch["tokens"].astype(np.int64))
