"""The two-tower model: published shapes, pooling, the dense read-out, remat and scan."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmopower.config import get_config
from harmopower.errors import ConfigError
from harmopower.models import clip, vision

EOT = 63


def small(**model):
    config = get_config()
    config.data.image_size, config.data.context_length = 64, 12
    config.model.update({"preset": "tiny"} | model)
    return config


def build(**model):
    model = clip.from_config(small(**model), 64, EOT)
    images = jax.random.randint(jax.random.key(1), (3, 64, 64, 3), 0, 256).astype(jnp.uint8)
    ids = jnp.array([[62, 5, 6, 7, EOT] + [0] * 7, [62, 9, EOT] + [0] * 9, [62, 1, 2, EOT] + [0] * 8], jnp.int32)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), images, ids))
    return model, params, images, ids


@pytest.mark.parametrize(
    "preset, count", [("ViT-B/16", 149_620_737), ("ViT-B/32", 151_277_313), ("ViT-L/14", 427_616_513)]
)
def test_parameter_counts_are_the_published_ones(preset, count):
    config = get_config()
    config.model.preset = preset
    model = clip.from_config(config, 49408, 49407)
    images, ids = jnp.zeros((1, 224, 224, 3), jnp.uint8), jnp.zeros((1, 77), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, ids)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_every_parameter_has_a_logical_name_for_each_axis():
    model = clip.from_config(small(), 64, EOT)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 12), jnp.int32))
    boxes = jax.tree.leaves(shapes, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
    assert len(boxes) > 20
    for box in boxes:
        assert isinstance(box, nn.LogicallyPartitioned) and len(box.names) == box.value.ndim


def test_shapes_and_pooling():
    model, params, images, ids = build(pool="mean")
    image = model.apply(params, images, method="encode_image")
    text = model.apply(params, ids, method="encode_text")
    assert image.tokens.shape == (3, 16, 128) and text.tokens.shape == (3, 12, 128)
    np.testing.assert_allclose(image.pooled, image.tokens.mean(1), atol=1e-5)
    np.testing.assert_allclose(text.pooled[0], text.tokens[0, 1:5].mean(0), atol=1e-5)  # without start and padding


def test_eos_pooling_ignores_what_follows_the_end():
    model, params, _, ids = build(pool="cls")
    encode = lambda ids: model.apply(params, ids, method="encode_text")
    np.testing.assert_allclose(encode(ids).pooled[0], encode(ids).tokens[0, 4], atol=1e-6)
    np.testing.assert_allclose(encode(ids).pooled, encode(ids.at[0, 6:].set(17)).pooled, atol=1e-6)


def test_text_is_causal():
    model, params, _, ids = build()
    encode = lambda ids: model.apply(params, ids, method="encode_text").tokens
    np.testing.assert_allclose(encode(ids)[0, :3], encode(ids.at[0, 3].set(40))[0, :3], atol=1e-6)
    assert abs(encode(ids)[0, 3] - encode(ids.at[0, 3].set(40))[0, 3]).max() > 1e-3


def test_unrolling_changes_nothing():
    model, params, images, _ids = build()
    expected = model.apply(params, images, method="encode_image").pooled
    other = clip.from_config(small(scan_unroll=4), 64, EOT)
    np.testing.assert_allclose(other.apply(params, images, method="encode_image").pooled, expected, atol=1e-5)


def test_remat_computes_again_and_gives_the_same_gradients():
    _, params, images, ids = build()

    def gradient(**settings):
        model = clip.from_config(small(**settings), 64, EOT)

        def loss(params):
            image = model.apply(params, images, method="encode_image")
            text = model.apply(params, ids, method="encode_text")
            return jnp.sum(image.pooled * text.pooled) + jnp.sum(jnp.sin(image.tokens)) + jnp.sum(jnp.sin(text.tokens))

        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        return compiled(params), compiled.cost_analysis()["flops"]

    plain, work = gradient()
    for remat in ("dots", "full"):
        again, more = gradient(remat=remat)
        for expected, found in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        assert more > work, remat  # what is not kept is computed again


def test_value_read_out_is_local():
    """With `dense=value` the last block mixes no tokens: its tokens follow from the tokens before it one by one."""
    full, params, images, _ = build()
    value = clip.from_config(small(dense="value"), 64, EOT)
    a, b = (model.apply(params, images, method="encode_image") for model in (full, value))
    np.testing.assert_allclose(a.pooled, b.pooled, atol=1e-5)  # the class token keeps its attention
    assert abs(a.tokens - b.tokens).max() > 1e-3
    np.testing.assert_allclose(b.tokens, last_block_by_hand(full, params, images), atol=1e-4)


def last_block_by_hand(model, params, images):
    """The value path written out in NumPy from METHOD section 1, fed with the tokens before the last block."""
    shallow = dict(params["params"]["vision"])
    blocks = shallow["transformer"]["blocks"]
    seen = {}

    def spy(next_function, args, kwargs, context):
        if type(context.module).__name__ == "Transformer" and context.method_name == "__call__":
            seen["start"] = args[0]
        return next_function(*args, **kwargs)

    with nn.intercept_methods(spy):
        model.apply(params, images, method="encode_image")
    x = np.asarray(seen["start"], np.float64)
    depth = blocks["norm_1"]["scale"].shape[0]
    for layer in range(depth):
        block = jax.tree.map(lambda leaf, layer=layer: np.asarray(leaf[layer], np.float64), blocks)
        x = numpy_block(block, x, attend=layer < depth - 1)
    x = numpy_norm(x, jax.tree.map(np.asarray, shallow["norm_post"]))
    return (x @ np.asarray(shallow["projection"]))[:, 1:]


def numpy_norm(x, norm):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]


def numpy_block(block, x, attend):
    query, key, value = (
        np.einsum("bnd,dqhe->qbnhe", numpy_norm(x, block["norm_1"]), block["qkv"]["kernel"])
        + block["qkv"]["bias"][:, None, None]
    )
    if attend:
        scores = np.einsum("bnhe,bmhe->bhnm", query, key) / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        value = np.einsum("bhnm,bmhe->bnhe", weights / weights.sum(-1, keepdims=True), value)
    x = x + np.einsum("bnhe,hed->bnd", value, block["out"]["kernel"]) + block["out"]["bias"]
    hidden = numpy_norm(x, block["norm_2"]) @ block["mlp_in"]["kernel"] + block["mlp_in"]["bias"]
    return x + (hidden / (1 + np.exp(-1.702 * hidden))) @ block["mlp_out"]["kernel"] + block["mlp_out"]["bias"]


@pytest.mark.parametrize("pool, dense", [("cls", "full"), ("mean", "full"), ("mean", "value")])
def test_patches_that_are_left_out_do_not_matter(pool, dense):
    model, params, images, _ = build(pool=pool, dense=dense)
    kept = jnp.array([[0, 3, 9], [1, 2, 15], [4, 5, 6]], jnp.int32)
    blank = jnp.zeros((4, 4), bool).ravel()
    mask = jnp.stack([blank.at[row].set(True) for row in kept]).reshape(3, 4, 4).repeat(16, 1).repeat(16, 2)[..., None]
    encode = lambda images: model.apply(params, images, kept, method="encode_image")
    image = encode(images)
    assert image.tokens.shape == (3, 3, 128)
    jax.tree.map(np.testing.assert_array_equal, image, encode(jnp.where(mask, images, 0)))
    assert abs(image.pooled - encode(jnp.where(mask, 0, images)).pooled).max() > 1e-3
    if pool == "mean" and dense == "full":
        np.testing.assert_allclose(image.pooled, image.tokens.mean(1), atol=1e-5)


@pytest.mark.parametrize("pool, dense", [("cls", "full"), ("mean", "value"), ("mean", "full")])
def test_the_pixels_of_padding_do_not_matter(pool, dense):
    model, params, images, _ = build(pool=pool, dense=dense)
    content = jnp.array([[64, 64], [23, 64], [64, 33]], jnp.int32)  # the last two end within a patch
    inside = vision.filled_cells(content, (64, 64))[..., None]
    encode = lambda images, kept=None: model.apply(params, images, kept, content, method="encode_image")
    image = encode(images)
    jax.tree.map(np.testing.assert_array_equal, image, encode(jnp.where(inside, images, 255 - images)))
    assert (abs(image.pooled - encode(jnp.where(inside, 255 - images, images)).pooled).max(1) > 1e-3).all()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:1], b[:1], atol=1e-5),
        image,
        model.apply(params, images, method="encode_image"),
    )
    filled = model.filled(content)
    assert filled.tolist() == [[4, 4], [2, 4], [4, 3]]
    if dense == "full" and pool == "mean":
        tokens = image.tokens.reshape(3, 4, 4, 128)
        np.testing.assert_allclose(image.pooled[1], tokens[1, :2].mean((0, 1)), atol=1e-5)
        np.testing.assert_allclose(image.pooled[2], tokens[2, :, :3].mean((0, 1)), atol=1e-5)
    if pool == "mean":
        kept = jnp.array([[0, 1, 15]] * 3, jnp.int32)  # the last one is padding in two of them
        few = encode(images, kept)
        weight = jnp.array([[1, 1, 1], [1, 1, 0], [1, 1, 0]])[..., None]
        if dense == "full":
            np.testing.assert_allclose(few.pooled, (few.tokens * weight).sum(1) / weight.sum(1), atol=1e-5)
    nothing = model.apply(params, images, None, jnp.zeros((3, 2), jnp.int32), method="encode_image")  # bad records
    assert jnp.isfinite(nothing.pooled).all()


def test_padding_is_left_out_first():
    filled = jnp.array([[2, 4], [4, 3], [1, 1]], jnp.int32)
    draw = jax.jit(vision.draw_patches, static_argnums=(1, 2, 3))
    kept = np.asarray(draw(jax.random.key(0), 3, (4, 4), 0.5, filled))
    assert kept[0].tolist() == list(range(8))
    assert (kept[1] % 4 < 3).all() and 0 in kept[2] and (np.diff(kept) > 0).all()
    whole = draw(jax.random.key(0), 3, (4, 4), 0.5, jnp.array([[4, 4]] * 3))
    np.testing.assert_array_equal(whole, draw(jax.random.key(0), 3, (4, 4), 0.5))


def test_keeping_all_patches_changes_nothing():
    model, params, images, _ = build(dense="value")
    whole = model.apply(params, images, method="encode_image")
    again = model.apply(params, images, jnp.tile(jnp.arange(16), (3, 1)), method="encode_image")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, again)


def test_patches_are_drawn_by_row():
    draw = jax.jit(vision.draw_patches, static_argnums=(1, 2, 3))
    kept = np.asarray(draw(jax.random.key(3), 400, (4, 4), 0.7))
    assert kept.shape == (400, 5) and (np.diff(kept) > 0).all() and kept.min() >= 0
    np.testing.assert_array_equal(kept[:7], draw(jax.random.key(3), 7, (4, 4), 0.7))
    share = np.bincount(kept.ravel(), minlength=16) / 400
    np.testing.assert_allclose(share, 5 / 16, atol=0.1)  # four standard deviations
    assert vision.kept_patches((14, 14), 0.5) == 98 and vision.kept_patches((4, 4), 0.999) == 1


def test_uint8_and_float_pixels_agree():
    model, params, images, _ = build()
    encode = lambda images: model.apply(params, images, method="encode_image").pooled
    np.testing.assert_allclose(encode(images), encode(images.astype(jnp.float32) / 255), atol=1e-5)


def test_refuses_unknown_preset_and_image_size():
    with pytest.raises(ConfigError, match="did you mean 'ViT-B/16'"):
        clip.from_config(small(preset="ViTB16"), 64, EOT)
    config = small()
    config.data.image_size = 30
    with pytest.raises(ConfigError, match="image_size 30 .* patch size 16"):
        clip.from_config(config, 64, EOT)
    config.data.image_size, config.data.image_width = 64, 40
    with pytest.raises(ConfigError, match="image_width 40 .* patch size 16"):
        clip.from_config(config, 64, EOT)


def test_rectangles():
    """Patches row by row, positions by rows and columns, an equal square model where the width is the height."""
    config = small(pool="mean")
    config.data.image_size, config.data.image_width = 32, 96
    model = clip.from_config(config, 64, EOT)
    assert model.shape == (32, 96) and model.grid == clip.grid(config) == (2, 6)
    images = jax.random.randint(jax.random.key(1), (2, 32, 96, 3), 0, 256).astype(jnp.uint8)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), images, jnp.zeros((1, 12), jnp.int32)))
    position = np.asarray(params["params"]["vision"]["position"])[1:].reshape(2, 6, -1)
    quarter = position.shape[-1] // 4
    assert (position[0, :, : 2 * quarter] == position[1, :, : 2 * quarter]).all()  # of the column alone
    assert (position[:, :1, 2 * quarter :] == position[:, :, 2 * quarter :]).all()  # of the row alone
    encode = jax.jit(lambda images, kept: model.apply(params, images, kept, method="encode_image").tokens)
    moved = images.at[:, 16:, 80:].set(0)  # the last patch: row 1, column 5
    kept = jnp.array([[0, 5, 6, 10]] * 2)
    np.testing.assert_array_equal(encode(images, kept), encode(moved, kept))
    assert abs(encode(images, kept.at[:, 3].set(11)) - encode(moved, kept.at[:, 3].set(11))).max() > 1e-3
    config.data.image_size, config.data.image_width = 64, 64
    assert clip.from_config(config, 64, EOT).grid == (4, 4)


def test_positions_start_from_sines_or_from_clips_noise():
    noise, other = (vision._init_position(jax.random.key(key), (8, 8), 64, "noise").value for key in (0, 1))
    assert noise.shape == (65, 64) and abs(float(noise.std()) - 1 / 8) < 0.01 and (noise != other).all()
    sines, again = (vision._init_position(jax.random.key(key), (8, 8), 64, "sincos").value for key in (0, 1))
    assert (sines == again).all() and (sines[0] == 0).all()
