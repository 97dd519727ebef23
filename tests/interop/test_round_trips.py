"""Ours -> OpenCLIP or Hugging Face -> ours is bit-equal, and their real models compute what ours does, also tokens."""

import importlib.util
import json
import shutil
import sys

from interop_models import nested, random_params, settings, tokenizer, write_export
import jax
from libraries import open_clip, transformers
import numpy as np
import pytest
import torch

from harmopower.interop import export, proof, source

SHAPES = {  # CLIP's widths and heads, with two layers
    "B/32": ("patch32-shared512-vision768x2x12-text512x2x8", 96),
    "B/16": ("patch16-shared512-vision768x2x12-text512x2x8", 64),
    "L/14": ("patch14-shared768-vision1024x2x16-text768x2x12", 56),
}
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=SHAPES)
def case(request):
    """A model of one shape: config, flat parameters, inputs, and our unit embeddings and token features."""
    preset, image_size = SHAPES[request.param]
    config = settings(preset, image_size)
    flat = random_params(config)
    model = export.exported_model(config, tokenizer())
    seen = proof.probe(model, tokenizer(), "squash")
    image, text, _ = jax.device_get(proof.features(model, nested(flat), seen.pixels, seen.ids))
    return config, flat, seen, proof.normalised(model, seen), (image, text)


def close(ours, theirs):
    """Compares in units of the embeddings' length, token features with that of the longest one."""
    length = np.linalg.norm(ours, axis=-1).max()
    np.testing.assert_allclose(theirs.detach().numpy() / length, ours / length, atol=TOLERANCE, rtol=0)


def check_back(folder, flat):
    found = source.open_source(folder)
    assert found.shapes.keys() == flat.keys() and found.notes == ()
    for name, expected in flat.items():
        np.testing.assert_array_equal(found.read(name), expected, err_msg=name)
    return found


def test_open_clip(case, tmp_path):
    config, flat, seen, pixels, (image, text) = case
    write_export(tmp_path / "out", "open_clip", config, flat)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    model.eval()
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(list(seen.captions))
    np.testing.assert_array_equal(ids.numpy(), seen.ids)
    with torch.no_grad():
        close(image.pooled, model.encode_image(torch.from_numpy(pixels)))
        close(text.pooled, model.encode_text(ids))
        tokens = model.visual.ln_post(model.visual.transformer(model.visual._embeds(torch.from_numpy(pixels))))
        close(image.tokens, (tokens @ model.visual.proj)[:, 1:])
        tokens = model.transformer(model.token_embedding(ids) + model.positional_embedding, attn_mask=model.attn_mask)
        close(text.tokens, model.ln_final(tokens) @ model.text_projection)
    found = check_back(tmp_path / "out", flat)
    assert found.config.model.preset == config.model.preset and found.config.data.image_size == config.data.image_size


def test_hugging_face(case, tmp_path):
    config, flat, seen, pixels, (image, text) = case
    write_export(tmp_path / "out", "huggingface", config, flat)
    model = transformers.CLIPModel.from_pretrained(tmp_path / "out").eval()
    ids = torch.from_numpy(seen.ids).long()
    with torch.no_grad():
        found_image, found_text = model.get_image_features(torch.from_numpy(pixels)), model.get_text_features(ids)
        close(image.pooled, found_image.pooler_output)
        close(text.pooled, found_text.pooler_output)
        tokens = model.visual_projection(model.vision_model.post_layernorm(found_image.last_hidden_state))
        close(image.tokens, tokens[:, 1:])
        close(text.tokens, model.text_projection(found_text.last_hidden_state))
    check_back(tmp_path / "out", flat)
    # What transformers itself writes is read back to the bit, too, also in several files.
    model.save_pretrained(tmp_path / "again", max_shard_size="20MB")
    assert (tmp_path / "again" / "model.safetensors.index.json").exists()
    found = source.open_source(tmp_path / "again")
    for name, expected in flat.items():
        np.testing.assert_array_equal(found.read(name), expected, err_msg=name)


@pytest.mark.parametrize(
    "how",
    [dict(pool="mean"), dict(pool="mean", text_pool="eos"), dict(pool="cls", text_pool="mean"), dict(kind="sigmoid")],
    ids=str,
)
def test_own_modelling_file(tmp_path, how):
    config = settings(**how)
    flat = random_params(config)
    ours = write_export(tmp_path / "out", "huggingface", config, flat)
    model = transformers.AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules.")  # the folder's file, not ours
    seen = proof.probe(ours, tokenizer(), "squash")
    image, text, _ = jax.device_get(proof.features(ours, nested(flat), seen.pixels, seen.ids))
    expected = proof.ours(ours, nested(flat), seen)
    with torch.no_grad():
        pixels, ids = torch.from_numpy(proof.normalised(ours, seen)), torch.from_numpy(seen.ids).long()
        close(image.tokens, model.get_image_features(pixels).last_hidden_state)
        close(text.tokens, model.get_text_features(ids).last_hidden_state)
        found = model(input_ids=ids, pixel_values=pixels)
    np.testing.assert_allclose(found.logits_per_image.numpy(), expected.logits, atol=1e-4)
    np.testing.assert_allclose(found.text_embeds.numpy(), expected.text, atol=TOLERANCE)
    back = check_back(tmp_path / "out", flat)
    assert (back.config.model.pool, back.config.model.text_pool) == (ours.pool, ours.text_pool)


def test_open_clip_expresses_image_means_and_the_sigmoid_loss(tmp_path):
    config = settings(pool="mean", text_pool="eos", kind="sigmoid")
    flat = random_params(config)
    write_export(tmp_path / "out", "open_clip", config, flat)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    assert model.visual.pool_type == "avg" and model.logit_bias.item() == flat["logit_bias"]
    assert check_back(tmp_path / "out", flat).config.objective.global_contrastive.kind == "sigmoid"


@pytest.mark.parametrize("name", ["open_clip", "huggingface"])
@pytest.mark.parametrize("activation, epsilon", [("gelu", 1e-5), ("gelu_tanh", 1e-6), ("quick_gelu", 1e-3)])
def test_activation_and_epsilon_travel(tmp_path, name, activation, epsilon):
    """The proof inside the export compares the real models; here the settings come back as they went."""
    config = settings(activation=activation, layer_norm_epsilon=epsilon)
    told = []
    write_export(tmp_path / "out", name, config, random_params(config), say=told.append)
    assert "ids and pixels compared too" in told[0]
    found = source.open_source(tmp_path / "out").config.model
    assert (found.activation, found.layer_norm_epsilon) == (activation, epsilon)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One small model in both formats, with what our model says."""
    config, folder = settings("tiny"), tmp_path_factory.mktemp("exported")
    flat = random_params(config)
    for name in export.FORMATS:
        model = write_export(folder / name, name, config, flat)
    seen = proof.probe(model, tokenizer(), "squash")
    return folder, model, proof.ours(model, nested(flat), seen), seen


@pytest.mark.parametrize(
    "name, file, change",
    [
        ("open_clip", "open_clip_config.json", ('"quick_gelu": true', '"quick_gelu": false')),
        ("open_clip", "open_clip_config.json", ('"eps": 1e-05', '"eps": 0.1')),
        ("huggingface", "config.json", ('"quick_gelu"', '"gelu"')),
        ("huggingface", "config.json", ('"layer_norm_eps": 1e-05', '"layer_norm_eps": 0.1')),
        ("huggingface", "preprocessor_config.json", ('"resample": 3', '"resample": 2')),
        ("huggingface", "tokenizer.json", ('"Lowercase"', '"NFC"')),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1],
)
def test_the_proof_sees_every_drift(exported, tmp_path, name, file, change):
    folder, model, expected, seen = exported
    shutil.copytree(folder / name, tmp_path / "out")
    text = (tmp_path / "out" / file).read_text()
    assert change[0] in text
    (tmp_path / "out" / file).write_text(text.replace(*change))
    with pytest.raises(proof.ConversionError, match="not the trained one|other ids|grey levels"):
        proof.check(tmp_path / "out", export.FORMATS[name], model, expected, seen)


def test_the_proof_with_open_clip_allows_no_grey_level(exported):
    """Both resize the whole image; what training takes, the window alone, is up to two levels beside it."""
    folder, model, _, seen = exported
    changed = seen._replace(pixels=seen.pixels ^ (np.arange(3) == 1).astype(np.uint8))
    expected = proof.ours(model, nested(random_params(settings("tiny"))), changed)
    with pytest.raises(proof.ConversionError, match=r"differs by 1\.0 grey levels; 0 are allowed"):
        proof.check(folder / "open_clip", export.FORMATS["open_clip"], model, expected, changed)


def test_plain_pytorch_proves_where_open_clip_is_missing(exported, monkeypatch):
    folder, model, expected, seen = exported
    monkeypatch.setitem(sys.modules, "open_clip", None)
    line = proof.check(folder / "open_clip", export.FORMATS["open_clip"], model, expected, seen)
    assert "plain PyTorch" in line
    wrong = expected._replace(text=expected.text + 2e-4)
    with pytest.raises(proof.ConversionError, match="difference of embeddings 2.0e-04.*the limit is 1e-04"):
        proof.check(folder / "open_clip", export.FORMATS["open_clip"], model, wrong, seen)


def test_without_pytorch_the_proof_is_skipped(exported, monkeypatch):
    folder, model, expected, seen = exported
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    for name, layout in export.FORMATS.items():
        assert "skipped: torch is not installed" in proof.check(folder / name, layout, model, expected, seen)


def test_special_tokens_in_captions_are_text(exported):
    found = transformers.CLIPProcessor.from_pretrained(exported[0] / "huggingface").tokenizer(
        ["a <|endoftext|> b"], padding="max_length", truncation=True
    )["input_ids"]
    np.testing.assert_array_equal(found, tokenizer().encode_batch(["a <|endoftext|> b"], 16)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["open_clip", "huggingface"])
def test_full_depth(tmp_path, name):
    """ViT-B/32 as published, 151 million parameters, at the largest logit scale."""
    config = settings("ViT-B/32", 224, 77)
    flat = random_params(config)
    flat["logit_scale"] = np.float32(np.log(100))
    told = []
    write_export(tmp_path / "out", name, config, flat, say=told.append)
    print(told)
    assert check_back(tmp_path / "out", flat).config.model.preset == "ViT-B/32"


def test_presets_are_found_by_size_and_every_setting_is_written(exported):
    assert source.open_source(exported[0] / "open_clip").config.model.preset == "tiny"
    written = json.loads((exported[0] / "open_clip" / "open_clip_config.json").read_text())
    text, preprocess = written["model_cfg"]["text_cfg"], written["preprocess_cfg"]
    assert (text["proj_bias"], text["pool_type"], text["eos_id"]) == (False, "eos", tokenizer().eot_id)
    assert (preprocess["interpolation"], preprocess["resize_mode"]) == ("bicubic", "squash")
    text = json.loads((exported[0] / "huggingface" / "config.json").read_text())["text_config"]
    assert text["eos_token_id"] == tokenizer().eot_id
