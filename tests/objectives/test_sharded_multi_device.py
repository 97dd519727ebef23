"""The losses on 1, 2, 4 and 8 shards of the batch, in a ring and gathered, against one device; memory at full size.

Runs in a process with 8 forced host devices (launch/test.sh gives it one).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmopower.objectives import contrastive, powerset, region
from harmopower.parallel import collectives
from harmopower.parallel import mesh as meshes
from tools import reference

if jax.device_count() < 8:
    pytest.skip("run with XLA_FLAGS=--xla_force_host_platform_device_count=8", allow_module_level=True)

MESHES = {"1": (1,), "2": (2,), "4": (4,), "4x2": (4, 2)}
# With one shard nothing is communicated.
CASES = [(mesh, communication) for mesh in MESHES for communication in ("ring", "gather")][1:]
# Nothing here runs for long: compiling without the expensive passes halves the time of the file.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
REGIONS, PHRASES, WIDTH = 4, 5, 16


def example(rows):
    """Features, ragged masks, weights with a zero, and repeated groups."""
    rng = np.random.default_rng(rows)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in rng.normal(size=(2, rows, WIDTH))]
    features = dict(
        image=unit[0],
        text=unit[1],
        regions=rng.normal(size=(rows, REGIONS, WIDTH)) / 4,
        phrases=rng.normal(size=(rows, PHRASES, WIDTH)),
        scale=np.float32(14),
    )
    masks = dict(
        region_mask=rng.random((rows, REGIONS)) < 0.7,
        phrase_mask=rng.random((rows, PHRASES)) < 0.7,
        weight=(np.arange(rows) % 5 != 3).astype(np.float32),
        group=rng.integers(0, rows // 2, rows).astype(np.int32),
    )
    return {name: jnp.float32(value) for name, value in features.items()}, masks


def softmax(f, m, **meeting):
    return contrastive.softmax_loss(f["image"], f["text"], f["scale"], weight_rows=m["weight"], **meeting)


def sigmoid(f, m, **meeting):
    return contrastive.sigmoid_loss(f["image"], f["text"], f["scale"], -f["scale"], weight_rows=m["weight"], **meeting)


def pairs(f, m, **options):
    return region.pair_loss(f["image"], f["text"], m["weight"] > 0, m["group"], f["scale"], **options)


def triplet(f, m, phrases=PHRASES, loss=powerset.powerset_loss, **options):
    return loss(
        f["regions"],
        m["region_mask"],
        f["phrases"][:, :phrases],
        m["phrase_mask"][:, :phrases],
        margin=0.2,
        weight_rows=m["weight"],
        rng=jax.random.key(0),
        **options,
    )


LOSSES = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "pairs": partial(pairs, duplicates="positives"),
    "pairs-ignore": partial(pairs, duplicates="ignore"),
    "powerset-exact": partial(triplet, method="exact"),
    "powerset-nla": partial(triplet, method="nla", temperature=0.05),
    # Fewer phrases than regions: here the texts travel.
    "powerset-sampled": partial(triplet, method="sampled", samples=17, score_norm="mean", phrases=3),
}


# Parts of the term alone: the sweeps are the same, so the mesh with two axes is enough.
PARTS = {
    "tree to region": partial(triplet, method="nla", temperature=0.05, direction="tree_to_region"),
    "region to tree": partial(triplet, method="nla", temperature=0.05, direction="region_to_tree"),
    "single regions": partial(triplet, method="single"),
}


def on_mesh(shape):
    sizes = shape + (1,) * (3 - len(shape))
    return meshes.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(shape))])


def run(loss, rows, mesh=None, **meeting):
    """Value, metrics and gradient of a loss; inside a mesh the rows that divide are laid over the batch axes."""
    return evaluate(partial(loss, **meeting), *example(rows), mesh)


def evaluate(loss, features, masks, mesh=None):
    function = jax.jit(jax.value_and_grad(loss, has_aux=True))
    if mesh is None:
        return function.lower(features, masks).compile(QUICK_COMPILE)(features, masks)
    with jax.set_mesh(mesh):
        place = partial(jax.tree.map, lambda array: jax.device_put(array, sharding_of(array, mesh)))
        arrays = place(features), place(masks)
        return function.lower(*arrays).compile(QUICK_COMPILE)(*arrays)


def sharding_of(array, mesh):
    cut = np.ndim(array) and len(array) % meshes.batch_shards(mesh) == 0
    return meshes.batch_sharding(mesh) if cut else meshes.replicated(mesh)


@pytest.fixture(scope="module")
def single():
    """Results on one device without a mesh, with a tile for the whole batch."""
    return {(name, rows): run(loss, rows) for name, loss in LOSSES.items() for rows in (16, 13)}


def agree(got, wanted):
    (value, metrics), gradient = got
    (wanted_value, wanted_metrics), wanted_gradient = wanted
    np.testing.assert_allclose(value, wanted_value, rtol=1e-6)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], wanted_metrics[name], rtol=1e-5, err_msg=name)
    for name, leaf in wanted_gradient.items():
        largest = max(np.abs(leaf).max(), 1e-3)
        np.testing.assert_allclose(gradient[name], leaf, rtol=0, atol=3e-6 * largest, err_msg=name)


@pytest.mark.parametrize("mesh, communication", CASES, ids=lambda value: str(value))
@pytest.mark.parametrize("name", LOSSES)
def test_shards_agree_with_one_device(name, mesh, communication, single):
    """13 rows: uneven shards; blocks of 2: several tiles a visit."""
    rows, block = (13, 2) if mesh in ("2", "4x2") else (16, None)
    agree(run(LOSSES[name], rows, on_mesh(MESHES[mesh]), block=block, communication=communication), single[name, rows])


@pytest.mark.parametrize(
    "name, communication", [("tree to region", "ring"), ("region to tree", "gather"), ("single regions", "ring")]
)
def test_shards_agree_on_parts_of_the_powerset(name, communication):
    agree(run(PARTS[name], 13, on_mesh((4, 2)), block=2, communication=communication), run(PARTS[name], 13))


@pytest.mark.parametrize("communication", ["ring", "gather"])
@pytest.mark.parametrize("phrases", [PHRASES, 3], ids=["images travel", "texts travel"])
def test_ties_across_shards_go_to_the_lowest_index(communication, phrases):
    """Rows 1, 6 and 14 are the same and the hardest of all, on three shards: row 1 takes the gradient, as in dense."""
    features, masks = example(16)
    twins = jnp.array([6, 14])
    for name, size in (("regions", 2), ("phrases", 10)):
        positive = jnp.abs(features[name])
        positive = positive.at[1].multiply(size)
        features[name] = positive.at[twins].set(positive[1])
    masks = masks | {name: np.ones_like(masks[name]) for name in ("region_mask", "phrase_mask", "weight")}
    loss = partial(triplet, method="exact", phrases=phrases)
    dense = evaluate(partial(loss, loss=reference.scored_loss), features, masks)
    sharded = partial(loss, block=1, communication=communication)
    agree(evaluate(sharded, features, masks, on_mesh((4, 2))), dense)
    gradient = np.abs(dense[1]["phrases"]).sum((1, 2))
    assert gradient[1] > 1.5 * max(gradient[6], gradient[14])


@pytest.mark.parametrize("communication", ["ring", "gather"])
def test_tensor_axis_holds_copies(communication, single):
    got = run(LOSSES["powerset-nla"], 16, on_mesh((2, 2, 2)), communication=communication)
    agree(got, single["powerset-nla", 16])


def test_sharded_arrays_outside_a_mesh_context_are_right(single):
    """Without `jax.set_mesh` XLA partitions the plain form."""
    mesh = on_mesh((4, 2))
    place = partial(jax.tree.map, lambda array: jax.device_put(array, sharding_of(array, mesh)))
    for name in ("softmax", "powerset-nla"):
        features, masks = (place(tree) for tree in example(16))
        agree(evaluate(partial(LOSSES[name], block=4), features, masks), single[name, 16])


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "pairs", "powerset-exact"])
def test_auto_is_one_of_the_two_by_size(name, monkeypatch):
    features, masks = example(16)

    def collectives_of(limit, communication="auto"):
        monkeypatch.setattr(collectives, "GATHERED_BYTES", limit)
        loss = partial(LOSSES[name], communication=communication)
        with jax.set_mesh(on_mesh((4, 2))):
            text = str(jax.make_jaxpr(jax.grad(lambda *arrays: loss(*arrays)[0]))(features, masks))
        return text.count(" ppermute["), text.count(" all_gather[")

    hops, gathered = collectives_of(0, "ring"), collectives_of(0, "gather")
    assert hops[0] > 0 == hops[1] and gathered[1] > 0 == gathered[0]
    assert collectives_of(0) == hops and collectives_of(2**20) == gathered


def compiled_memory(function, mesh, *shapes):
    """Temporary bytes of one device, from the compiler; nothing is run."""
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=meshes.batch_sharding(mesh)) for shape, dtype in shapes]
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*arrays).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "method, communication, rows", [("nla", "ring", 4096), ("exact", "ring", 4096), ("nla", "gather", 2048)]
)
def test_powerset_memory_a_device(method, communication, rows):
    """Issue 3: B = 4096, M = 10, K = 20, D = 512, float32, on 8 devices at most 0.15 GiB beside the arrays.

    Gathered images and their gradients alone are 0.16 GiB at this size: `gather` holds the limit at half of it.
    """

    def loss(regions, region_mask, phrases, phrase_mask):
        return powerset.powerset_loss(
            regions, region_mask, phrases, phrase_mask, margin=0.2, method=method, communication=communication
        )[0]

    shapes = ((rows, 10, 512), jnp.float32), ((rows, 10), bool), ((rows, 20, 512), jnp.float32), ((rows, 20), bool)
    memory = compiled_memory(jax.value_and_grad(loss, (0, 2)), on_mesh((4, 2)), *shapes)
    assert memory <= 0.15 * 2**30


@pytest.mark.parametrize(
    "kind, communication, rows",
    [
        ("softmax", "ring", 32768),
        ("sigmoid", "ring", 32768),
        ("softmax", "gather", 16384),
        ("sigmoid", "gather", 16384),
    ],
)
def test_global_loss_memory_a_device(kind, communication, rows):
    """Issue 4: global batch 32768, D = 512, on 8 devices at most 150 MiB; the whole matrix would take 4 GiB.

    `gather` takes 165 MiB there, 128 of them the gathered images and their gradients, and holds the limit at half.
    """

    def loss(image, text):
        if kind == "softmax":
            return contrastive.softmax_loss(image, text, 50.0, communication=communication)[0]
        return contrastive.sigmoid_loss(image, text, 50.0, -10.0, communication=communication)[0]

    side = (rows, 512), jnp.float32
    memory = compiled_memory(jax.value_and_grad(loss, (0, 1)), on_mesh((4, 2)), side, side)
    assert memory <= 150 * 2**20
