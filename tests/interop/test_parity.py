"""What docs/parity.md says of open_clip, held against the open_clip that is installed."""

import importlib.util
from pathlib import Path
import types

import jax
from libraries import open_clip
import numpy as np
import pytest
import torch

from harmopower import config as configs
from harmopower.interop import names
from harmopower.models import clip
from harmopower.training import optimizer as optimizers
from harmopower.training import state as states

CONFIG = Path(__file__).parents[2] / "configs" / "cc12m_openclip_parity_vitb16.py"
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 128, "layers": 2, "head_width": 64},
    "text_cfg": {"context_length": 16, "vocab_size": 512, "width": 64, "layers": 2, "heads": 1},
}
PRESET = "patch16-shared32-vision128x2x2-text64x2x1"


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return open_clip.CLIP(**SMALL)


@pytest.fixture(scope="module")
def ours():
    """Our parameters under their names, and which of them are decayed."""
    config = configs.load(CONFIG)
    config.model.preset, config.data.image_size, config.data.context_length = PRESET, 32, 16
    model = clip.from_config(config, 512, 511)
    params = jax.device_get(jax.jit(lambda: states._start(model, jax.random.key(0)))())
    params = states.nn.unbox(params)
    mask = jax.tree.map(lambda leaf, kept: np.full(leaf.shape, kept), params, optimizers.decay_mask(params))
    tensors = [
        {name: make() for name, _, make in names.their_tensors(names.OPEN_CLIP, names.flat(tree))}
        for tree in (params, mask)
    ]
    return types.SimpleNamespace(params=tensors[0], decayed=tensors[1])


def trainer(name):
    """The source of a module of open_clip's trainer, some of which cannot be imported here."""
    return (Path(importlib.util.find_spec("open_clip_train").submodule_search_locations[0]) / name).read_text()


def test_defaults_of_the_trainer():
    from open_clip_train.params import parse_args

    found, config = parse_args([]), configs.load(CONFIG).optimizer
    chosen = parse_args(["--model", "ViT-B-16"])
    assert (chosen.beta1, chosen.beta2, chosen.eps) == (config.b1, config.b2, config.epsilon) == (0.9, 0.98, 1e-6)
    assert found.wd == config.weight_decay == 0.2 and found.grad_clip_norm is None and config.clip_norm == 0
    assert found.precision == "amp" and not found.gather_with_grad and not found.local_loss
    assert found.warmup == config.warmup_steps == 10_000 and found.epochs == 32
    assert open_clip.transform.AugmentationCfg().scale == (0.9, 1.0)


def test_the_warm_up_is_one_step_later_and_nothing_else_of_the_schedule_differs():
    from open_clip_train.scheduler import cosine_lr

    config = configs.get_config()
    config.total_steps, config.optimizer.warmup_steps, config.optimizer.learning_rate = 50, 10, 1e-3
    their_rate = cosine_lr(types.SimpleNamespace(param_groups=[{}]), 1e-3, 10, 50)
    our_rate = optimizers.make_schedule(config)
    assert our_rate(0) == 0
    for step in range(1, 50):
        assert float(our_rate(step)) == pytest.approx(their_rate(step - 1 if step <= 10 else step), rel=1e-4), step


def test_what_is_decayed_is_the_same(theirs, ours):
    (rule,) = [line.split("=", 1)[1] for line in trainer("main.py").splitlines() if "exclude = lambda" in line]
    exclude = eval(rule)  # the line of their trainer itself
    parameters = dict(theirs.named_parameters())
    assert parameters.keys() == ours.decayed.keys()
    for name, tensor in parameters.items():
        assert (
            np.asarray(ours.decayed[name]).all() == np.asarray(ours.decayed[name]).any() == (not exclude(name, tensor))
        )


def test_the_start_differs_where_the_table_says(theirs, ours):
    deviation = {
        name: (float(tensor.detach().std()), float(np.std(ours.params[name])))
        for name, tensor in theirs.named_parameters()
        if tensor.ndim > 1
    }
    image_blocks = {name for name in deviation if name.startswith("visual.transformer")}
    assert len(image_blocks) == 8
    for name, (their_deviation, our_deviation) in deviation.items():
        assert (abs(their_deviation / our_deviation - 1) < 0.1) == (name not in image_blocks), name
    largest = lambda name: float(theirs.state_dict()[name].abs().max()) / deviation[name][0]
    uniform = ["visual.conv1.weight", *image_blocks]
    assert all(largest(name) < 1.8 for name in uniform) and largest("visual.proj") > 2.5  # sqrt(3) of a uniform one
    for name, tensor in theirs.named_parameters():
        if name.endswith("bias"):
            assert not np.any(ours.params[name]) and bool(tensor.abs().max() > 0) == (".mlp." in name), name
    assert np.isclose(theirs.logit_scale.item(), ours.params["logit_scale"])


def test_the_temperature_is_clamped_below_too():
    assert "logit_scale.clamp_(0, math.log(100))" in trainer("train.py")
