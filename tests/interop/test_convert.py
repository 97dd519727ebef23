"""Published weights in: every layout and file kind, what does not fit said in one line, positions resampled."""

import json
import pickle
import shutil

from interop_models import nested, random_params, settings, tokenizer, write_run
import jax
from jax.sharding import NamedSharding, PartitionSpec
from libraries import open_clip, transformers
import numpy as np
import pytest
import safetensors.numpy
import torch

from harmopower import config as configs
from harmopower.interop import names, source, starting, weights
from harmopower.interop.weights import ConversionError
from harmopower.models import vision
from harmopower.parallel import mesh as meshes
from harmopower.training.checkpoints import Checkpoints
from tools import convert_weights

HEADS_OF_64 = "patch8-shared16-vision64x2x1-text64x1x1"


def state_dict(config=None, rules=names.OPEN_CLIP):
    """A published state dict with its 64-channel heads, and our parameters."""
    flat = random_params(config or settings(HEADS_OF_64))
    return {name: np.ascontiguousarray(make()) for name, _, make in names.their_tensors(rules, flat)}, flat


def as_torch(state):
    return {name: torch.from_numpy(array.copy()) for name, array in state.items()}


def same(found, flat):
    assert found.shapes.keys() == flat.keys()
    for name, expected in flat.items():
        np.testing.assert_array_equal(found.read(name), expected, err_msg=name)


def test_safetensors_alone_says_what_it_assumes(tmp_path):
    state, flat = state_dict()
    safetensors.numpy.save_file(state, tmp_path / "m.safetensors")
    found = source.open_source(tmp_path / "m.safetensors")
    same(found, flat)
    assert found.config.model.activation == "gelu" and "activation gelu (OpenCLIP's" in found.notes[0]
    assert found.config.model.preset == HEADS_OF_64


def test_open_clip_training_checkpoint(tmp_path):
    """As open_clip saves while training: under `state_dict`, with the prefix of data-parallel training."""
    state, flat = state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in as_torch(state).items()}}, tmp_path / "m.pt")
    same(source.open_source(tmp_path / "m.pt"), flat)


def test_mean_pooled_state_dict(tmp_path):
    """As PowerCLIP's: OpenCLIP's names, pooling stated by the user; also with a custom text tower's prefix."""
    state, flat = state_dict()
    text = ("positional_embedding", "token_embedding", "transformer", "ln_final", "text_projection")
    state = {("text." if name.startswith(text) else "") + name: value for name, value in as_torch(state).items()}
    torch.save(state, tmp_path / "m.pt")
    found = source.open_source(tmp_path / "m.pt", pool="mean", text_pool="mean")
    same(found, flat)
    assert (found.config.model.pool, found.config.model.text_pool) == ("mean", "mean")


def test_openai_state_dict(tmp_path):
    """Half precision, quick_gelu, and three numbers that are no weights."""
    state, flat = state_dict()
    state = {name: tensor.half() for name, tensor in as_torch(state).items()}
    extras = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save(state | extras, tmp_path / "m.pt")
    found = source.open_source(tmp_path / "m.pt")
    same(found, {name: array.astype(np.float16).astype(np.float32) for name, array in flat.items()})
    assert found.config.model.activation == "quick_gelu"
    assert found.notes[1] == "not used: context_length, input_resolution, vocab_size"


def test_bfloat16_safetensors(tmp_path):
    from safetensors.torch import save_file

    state, flat = state_dict()
    save_file({name: tensor.bfloat16() for name, tensor in as_torch(state).items()}, tmp_path / "m.safetensors")
    rounded = {name: torch.tensor(array).bfloat16().float().numpy() for name, array in flat.items()}
    same(source.open_source(tmp_path / "m.safetensors"), rounded)


def test_old_hugging_face_folder(tmp_path):
    """An old config: settings twice, the wrong end token of old versions, and position numbers among the weights."""
    state, flat = state_dict(rules=names.HUGGING_FACE)
    state["text_model.embeddings.position_ids"] = np.arange(16)[None]
    torch.save(as_torch(state), tmp_path / "pytorch_model.bin")
    heads = {"num_attention_heads": 1}
    config = {
        "model_type": "clip",
        "text_config": {},
        "text_config_dict": heads | {"eos_token_id": 2},
        "vision_config": heads,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": 224, "do_center_crop": True, "resample": 3, "image_mean": [0.1, 0.2, 0.3]})
    )
    found = source.open_source(tmp_path)
    same(found, flat)
    assert found.config.data.resize_mode == "shortest" and found.config.model.pixel_mean == "0.1,0.2,0.3"
    assert found.notes == ("not used: text_model.embeddings.position_ids",)


@pytest.mark.parametrize("model", ["ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14-336", "ViT-H-14", "ViT-B-16-plus-240"])
def test_every_size_that_open_clip_builds(model):
    """The real models' names and shapes, without their memory."""
    with torch.device("meta"):
        config = open_clip.get_model_config(model)
        theirs = open_clip.CLIP(**config)
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    found = weights.Weights(shapes, None)
    facts = source.open_clip._facts(config, {}, model)
    sizes = source.formats.sizes(shapes, names.OPEN_CLIP, facts, model)
    ours = source.config_shapes(source._config(facts, sizes, False), sizes.vocabulary)
    assert source._check_names(source.open_clip, found, ours, model) == []
    assert facts.activation == ("quick_gelu" if "quickgelu" in model else "gelu")


@pytest.mark.parametrize(
    "model, reason",
    [
        ("ViT-g-14", "vision_cfg.mlp_ratio 4.3637"),
        ("coca_ViT-B-32", "vision_cfg.attentional_pool True"),
        ("roberta-ViT-B-32", "text_cfg.hf_model_name 'roberta-base'"),
        ("ViT-B-16-SigLIP", "vision_cfg.timm_model_name"),
    ],
)
def test_configs_of_other_architectures_are_refused(model, reason):
    with pytest.raises(ConversionError, match=reason):
        source.open_clip._facts(open_clip.get_model_config(model), {}, model)


@pytest.mark.parametrize(
    "model, reason",
    [("ViT-g-14", "MLP has 6144 channels, not 4 x 1408"), ("RN50", "has no visual.positional_embedding")],
)
def test_state_dicts_of_other_architectures_are_refused(model, reason):
    with torch.device("meta"):
        theirs = open_clip.CLIP(**open_clip.get_model_config(model))
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    with pytest.raises(ConversionError, match=reason):
        source.formats.sizes(shapes, names.OPEN_CLIP, source.formats.Facts(), model)


def break_names(state, how):
    if how == "missing":
        del state["visual.ln_post.bias"]
        del state["ln_final.bias"]
    elif how == "surplus":
        state["visual.transformer.resblocks.0.ls_1.gamma"] = np.ones(64, np.float32)
    elif how == "projection bias":
        state["text_projection.bias"] = np.ones(16, np.float32)
    elif how == "shape":
        state["visual.proj"] = np.ones((64, 17), np.float32)
    elif how == "depth":
        state["transformer.resblocks.3.ln_1.weight"] = np.ones(64, np.float32)
    elif how == "other":
        state.clear()
        state["bert.embeddings.weight"] = np.ones(2, np.float32)


@pytest.mark.parametrize(
    "how, text",
    [
        ("missing", "missing: ln_final.bias, visual.ln_post.bias"),
        ("surplus", "of another architecture: visual.transformer.resblocks.0.ls_1.gamma"),
        ("projection bias", "of another architecture: text_projection.bias"),
        ("shape", "visual.proj is [64, 17], not [64, 16]"),
        ("depth", "of another architecture: transformer.resblocks.3.ln_1.weight"),
        ("other", "nor vision_model.embeddings.patch_embedding.weight, but bert.embeddings.weight"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, capsys, how, text):
    state, _ = state_dict()
    break_names(state, how)
    safetensors.numpy.save_file(state, tmp_path / "m.safetensors")
    check_refused(tmp_path, capsys, tmp_path / "m.safetensors", text)


def check_refused(tmp_path, capsys, path, text):
    before = sorted(tmp_path.iterdir())
    assert convert_weights.main(["--source", str(path), "--output", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert text in shown and shown.count("\n") == 1, shown
    assert sorted(tmp_path.iterdir()) == before  # neither a folder nor a temporary one


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


def test_damaged_files_are_one_line(tmp_path, capsys):
    state, _ = state_dict()
    whole = safetensors.numpy.save(state)
    torch.save(as_torch(state), tmp_path / "whole.pt")
    files = {
        "short.safetensors": whole[: len(whole) // 2],
        "header.safetensors": whole[:50],
        "empty.safetensors": b"",
        "noise.safetensors": b"\xff" * 400,
        "short.pt": (tmp_path / "whole.pt").read_bytes()[:5000],
        "empty.pt": b"",
        "code.pt": pickle.dumps(Harmful()),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        check_refused(tmp_path, capsys, tmp_path / name, name)
        assert "this must not run" not in capsys.readouterr().out
    check_refused(tmp_path, capsys, tmp_path / "nowhere", "nowhere does not exist")
    (tmp_path / "text.txt").write_text("no weights")
    check_refused(tmp_path, capsys, tmp_path / "text.txt", "text.txt is none of .safetensors")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "jit.pt")
    check_refused(tmp_path, capsys, tmp_path / "jit.pt", "TorchScript archive")


def test_a_config_without_weights_and_the_reverse(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    check_refused(tmp_path, capsys, tmp_path / "a", "holds none of open_clip_model.safetensors")
    state, _ = state_dict(rules=names.HUGGING_FACE)
    safetensors.numpy.save_file(state, tmp_path / "a" / "model.safetensors")
    check_refused(tmp_path, capsys, tmp_path / "a", "config.json; Hugging Face's weights do not say")
    (tmp_path / "a" / "config.json").write_text('{"model_type": "siglip"}')
    check_refused(tmp_path, capsys, tmp_path / "a", "model_type 'siglip' is none of 'clip'")


@pytest.mark.parametrize(
    "old, new", [((4, 4), (7, 7)), ((7, 7), (4, 4)), ((14, 14), (24, 24)), ((14, 14), (7, 24)), ((6, 6), (5, 9))]
)
def test_image_positions_are_resampled_as_open_clip_does(old, new):
    position = np.random.default_rng(0).normal(0, 1, (1 + old[0] * old[1], 24)).astype(np.float32)
    state = {"visual.positional_embedding": torch.from_numpy(position)}

    class Visual:
        grid_size = new

    class Model:
        visual = Visual()

    open_clip.model.resize_pos_embed(state, Model())
    found = vision.resample_position(position, old, new)
    np.testing.assert_allclose(found, state["visual.positional_embedding"].numpy(), atol=2e-5)


@pytest.mark.parametrize("old, new", [(16, 24), (77, 248)])
def test_text_positions_are_stretched_as_open_clip_does(old, new):
    position = np.random.default_rng(0).normal(0, 1, (old, 24)).astype(np.float32)
    state = {"positional_embedding": torch.from_numpy(position)}

    class Model:
        positional_embedding = torch.zeros(new, 24)

    open_clip.model.resize_text_pos_embed(state, Model())
    expected = state["positional_embedding"].numpy()
    np.testing.assert_allclose(starting.resample_text_position(position, new), expected, atol=2e-5)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A state dict converted by the command line at its own size, and our parameters."""
    folder = tmp_path_factory.mktemp("converted")
    state, flat = state_dict()
    safetensors.numpy.save_file(state, folder / "m.safetensors")
    tokenizer().save(folder / "tokenizer.json")
    arguments = [
        "--source",
        str(folder / "m.safetensors"),
        "--output",
        str(folder / "out"),
        "--activation",
        "quick_gelu",
    ]
    assert convert_weights.main(arguments) == 0
    assert convert_weights.main(arguments) == 0  # its own earlier result is replaced
    return folder / "out", flat


def test_the_converted_folder_is_a_run(converted):
    folder, flat = converted
    assert sorted(file.name for file in folder.iterdir()) == [
        "checkpoints",
        "config.json",
        "harmopower.json",
        "tokenizer.json",
    ]
    config = configs.from_json((folder / "config.json").read_text())
    configs.validate(config, 1)
    assert config.model.activation == "quick_gelu" and config.data.image_size == 32
    assert Checkpoints(str(folder)).param_shapes(0) == {name: array.shape for name, array in flat.items()}


def fresh_params(config, mesh=None):
    params = nested(random_params(config, seed=9))
    place = NamedSharding(mesh or meshes.make_mesh(devices=jax.devices()[:1]), PartitionSpec())
    return jax.device_put(params, place)


def flattened(params):
    return names.flat(params)


@pytest.mark.parametrize("direct", [False, True], ids=["folder", "file"])
def test_init_starts_from_it(converted, direct):
    folder, flat = converted
    config, told = settings(HEADS_OF_64, kind="sigmoid", activation="quick_gelu"), []
    params = fresh_params(config)
    path = folder.parent / "m.safetensors" if direct else folder
    found = flattened(starting.load_init(str(path), params, config, told.append))
    for name, leaf in flattened(params).items():
        np.testing.assert_array_equal(found[name], flat.get(name, leaf), err_msg=name)
        assert found[name].sharding == leaf.sharding
    (bias,) = [line for line in told if "logit_bias" in line]
    assert "starts fresh, at SigLIP's -10" in bias and f"logit_scale {np.exp(flat['logit_scale']):.4g} is kept" in bias
    assert any("config.data.resize_mode: 'shortest' -> 'squash'" in line for line in told)
    assert direct == any("config.model.activation: 'gelu' -> 'quick_gelu'" in line for line in told)


def test_a_sigmoid_model_goes_on_under_softmax_without_its_bias(tmp_path):
    """And with a scale as high as SigLIP's, that training will clamp; under sigmoid itself the bias is taken over."""
    config = settings(kind="sigmoid")
    flat = random_params(config) | {"logit_scale": np.float32(np.log(117)), "logit_bias": np.float32(-12.9)}
    path, same, other, told = write_run(tmp_path / "run", config, flat), settings(kind="sigmoid"), settings(), []
    found = flattened(starting.load_init(str(path), fresh_params(other), other, told.append))
    assert found.keys() == flat.keys() - {"logit_bias"} and found["logit_scale"] == flat["logit_scale"]
    assert told == [
        f"config.init {path}: logit_bias of its sigmoid loss is left out, softmax does not change by a bias; "
        "logit_scale 117 is kept",
        f"config.init {path}: logit_scale 117 is above 100, to which the first update clamps it; "
        "config.optimizer.groups=logit_scale=0 keeps it as it is",
    ]
    told.clear()
    found = flattened(starting.load_init(str(path), fresh_params(same), same, told.append))
    assert found["logit_bias"] == flat["logit_bias"] and not any("logit_bias" in line for line in told)
    write_run(tmp_path / "clamped", other, random_params(other) | {"logit_scale": np.float32(np.log(100))})
    starting.load_init(str(tmp_path / "clamped"), fresh_params(other), other, pytest.fail)


def test_init_resamples_positions(converted):
    folder, flat = converted
    config, told = settings(HEADS_OF_64, image_size=64, context_length=24), []
    found = flattened(starting.load_init(str(folder), fresh_params(config), config, told.append))
    expected = {
        "vision/position": vision.resample_position(flat["vision/position"], (4, 4), (8, 8)),
        "text/position": starting.resample_text_position(flat["text/position"], 24),
    }
    for name, position in expected.items():
        np.testing.assert_allclose(found[name], position, atol=1e-6)
    np.testing.assert_array_equal(found["vision/projection"], flat["vision/projection"])
    assert f"config.init {folder}: vision/position is resampled from 17 to 65 positions (4 x 4 to 8 x 8)" in told


def test_init_resamples_to_rectangles_and_between_grids_of_as_many_patches(converted, tmp_path):
    folder, flat = converted
    config, told = settings(HEADS_OF_64, image_size=16), []
    config.data.image_width = 64
    found = flattened(starting.load_init(str(folder), fresh_params(config), config, told.append))
    expected = vision.resample_position(flat["vision/position"], (4, 4), (2, 8))
    np.testing.assert_allclose(found["vision/position"], expected, atol=1e-6)
    assert f"config.init {folder}: vision/position is resampled from 17 to 17 positions (4 x 4 to 2 x 8)" in told
    write_run(tmp_path / "wide", config, random_params(config))
    high = settings(HEADS_OF_64, image_size=64)
    high.data.image_width = 16
    wide = random_params(config)["vision/position"]
    found = flattened(starting.load_init(str(tmp_path / "wide"), fresh_params(high), high, told.append))
    expected = vision.resample_position(wide, (2, 8), (8, 2))
    np.testing.assert_allclose(found["vision/position"], expected, atol=1e-6)
    told.clear()
    again = flattened(starting.load_init(str(tmp_path / "wide"), fresh_params(config), config, told.append))
    np.testing.assert_array_equal(again["vision/position"], wide)
    assert not any("resampled" in line for line in told)


def test_captions_that_fit_a_shorter_context_mean_the_same(converted):
    """The tower is causal, and the shorter table of positions is the beginning of the longer one."""
    pooled = []
    for length in (16, 8):
        config = settings(HEADS_OF_64, context_length=length)
        params = starting.load_init(str(converted[0]), fresh_params(config), config, lambda line: None)
        model = source.clip.from_config(config, tokenizer().vocab_size, tokenizer().eot_id)
        ids = tokenizer().encode_batch(["a red circle"], length)[0]
        assert ids.shape == (1, length) and (ids == tokenizer().eot_id).any()
        pooled.append(model.apply({"params": params}, ids, method="encode_text").pooled)
    np.testing.assert_allclose(pooled[1], pooled[0], atol=1e-6)


def test_init_of_another_size_is_one_line(converted):
    config = settings("patch8-shared16-vision64x3x1-text64x1x1")
    with pytest.raises(ConversionError, match=r"norm_1/bias is \[2, 64\] there, \[3, 64\] here"):
        starting.load_init(str(converted[0]), fresh_params(config), config, print)


def test_init_from_another_run(tmp_path):
    config = settings()
    flat = random_params(config)
    write_run(tmp_path / "run", config, flat)
    found = flattened(starting.load_init(str(tmp_path / "run"), fresh_params(config), config, pytest.fail))
    for name, expected in flat.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_conversion_to_another_resolution_computes_what_open_clip_computes(tmp_path):
    """The real open_clip, told to use another resolution and context length, and our converted folder."""
    state, _ = state_dict()
    text = {"context_length": 24, "vocab_size": tokenizer().vocab_size, "width": 64, "heads": 1, "layers": 1}
    config = {
        "embed_dim": 16,
        "text_cfg": text,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "patch_size": 8},
    }
    theirs, path = open_clip.CLIP(**config), tmp_path / "m.safetensors"
    safetensors.numpy.save_file(state, path)
    open_clip.load_checkpoint(theirs, str(path))
    assert (
        convert_weights.main(
            ["--source", str(path), "--output", str(tmp_path / "out"), "--image-size", "48", "--context-length", "24"]
        )
        == 0
    )
    found = configs.from_json((tmp_path / "out" / "config.json").read_text())
    model = source.clip.from_config(found, tokenizer().vocab_size, tokenizer().eot_id)
    images = np.random.default_rng(0).uniform(0, 1, (2, 48, 48, 3)).astype(np.float32)
    ids = tokenizer().encode_batch(["a red circle", "a blue square left of a star"], 24)[0]
    params = starting.load_init(str(tmp_path / "out"), fresh_params(settings(HEADS_OF_64, 48, 24)), found)
    image, text, _ = jax.jit(model.apply)({"params": params}, images, ids)
    pixels = (images - np.array(model.pixel_mean, np.float32)) / np.array(model.pixel_std, np.float32)
    with torch.no_grad():
        expected = theirs.eval().encode_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).numpy()
        np.testing.assert_allclose(image.pooled, expected, atol=1e-5 * np.abs(expected).max() + 1e-6)
        expected = theirs.encode_text(torch.from_numpy(ids).long()).numpy()
        np.testing.assert_allclose(text.pooled, expected, atol=1e-5 * np.abs(expected).max() + 1e-6)


def test_wrong_tokenizer_and_foreign_output_are_refused(converted, tmp_path, capsys):
    file = converted[0].parent / "m.safetensors"
    shutil.copy(file, tmp_path / "m.safetensors")
    other = tokenizer().__class__.train(["x"], 280, tmp_path / "tokenizer.json")
    text = f"has {other.vocab_size} ids, the weights have {tokenizer().vocab_size}"
    check_refused(tmp_path, capsys, tmp_path / "m.safetensors", text)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    check_refused(tmp_path, capsys, file, "out holds something else")
    assert (tmp_path / "out" / "letter.txt").read_text() == "dear"


def test_clip_tokenizer_ids(tmp_path):
    """A tokenizer of CLIP's kind, whose id 0 is a word: the exported one gives our ids, padded with the end token."""
    from harmopower.data.tokenize import Tokenizer
    from harmopower.interop import tokenizer_files

    words = {"!": 0, "a</w>": 1, "r": 2, "e": 3, "d": 4, "d</w>": 5, "<|startoftext|>": 6, "<|endoftext|>": 7}
    transformers.CLIPTokenizer(vocab=words, merges=[]).save_pretrained(tmp_path / "clip")
    ours = Tokenizer.load(str(tmp_path / "clip"), "")
    (tmp_path / "out").mkdir()
    tokenizer_files.write(tmp_path / "out", ours, 8)
    assert tokenizer_files.pad_id(ours) == ours.eot_id == 7
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(
        ["a red", "A red red red"], padding="max_length", truncation=True
    )["input_ids"]
    expected = ours.encode_batch(["a red", "A red red red"], 8)[0]
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], [6, 1, 2, 3, 5, 7, 7, 7])
    np.testing.assert_array_equal(expected[0], [6, 1, 2, 3, 5, 7, 0, 0])


def test_init_takes_over_what_the_user_did_not_say(converted, tmp_path):
    """The file assumes gelu and shortest; mean-pooled, as PowerCLIP's, is stated when it is converted."""
    path = tmp_path / "mean"
    starting.convert(converted[0].parent / "m.safetensors", path, pool="mean", text_pool="mean", say=lambda line: None)
    config, told = settings(HEADS_OF_64, layer_norm_epsilon=1e-6), []
    config.init = str(path)
    starting.adopt(config, ["data.resize_mode"], told.append)
    assert (config.model.pool, config.model.text_pool, config.model.activation) == ("mean", "auto", "gelu")
    assert len(told) == 2 and all(f"is taken from config.init {path}" in line for line in told)
    # Said on the command line, though it is the default, and in the config file: kept, and named as different.
    assert (config.data.resize_mode, config.model.layer_norm_epsilon) == ("squash", 1e-6)
    told.clear()
    starting.load_init(str(path), fresh_params(config), config, told.append)
    kept = [line for line in told if "made with other settings" in line]
    assert [line.split(": ")[1] for line in kept] == ["config.model.layer_norm_epsilon", "config.data.resize_mode"]


def test_init_follows_a_pool_that_is_said_in_both_towers(converted):
    config = settings(HEADS_OF_64, pool="mean")
    config.init = str(converted[0])
    starting.adopt(config, [], lambda line: None)
    assert source.clip.text_pool(config) == "mean" and config.data.resize_mode == "shortest"
