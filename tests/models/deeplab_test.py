"""The DeepLabV3+ decoder: shapes, types, where biases and norms stand, dropout, pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eln_jax.models.deeplab import Aspp, Decoder
from eln_jax.models.layers import Features


def features(high=(4, 4), low=(16, 16), channels=(12, 6)):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return Features(draw(2, *high, channels[0]), draw(2, *low, channels[1]))


SMALL = Decoder(num_classes=5, width=16, low_width=8, embedding_size=7, rates=(1, 2, 3))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(SMALL.init)(jax.random.key(0, impl="rbg"), features())


@pytest.mark.parametrize(
    ("high", "low"), [((4, 4), (16, 16)), ((5, 4), (17, 16)), ((9, 8), (17, 16))]
)
def test_predictions_are_float32_at_the_low_size(variables, high, low):
    for dtype in (jnp.float32, jnp.bfloat16):
        apply = jax.eval_shape(SMALL.clone(dtype=dtype).apply, variables, features(high, low))
        assert apply.logits.shape == (2, *low, 5)
        assert apply.embeddings.shape == (2, *low, 7)
        assert {x.dtype for x in apply} == {jnp.dtype("float32")}


def test_parameters_are_those_of_the_paper():
    """Widths of VOC with ResNet-50: counted by hand from the table of networks."""
    decoder = Decoder(num_classes=21)
    blank = Features(jnp.zeros((1, 2, 2, 2048)), jnp.zeros((1, 8, 8, 256)))
    params = jax.eval_shape(decoder.init, jax.random.key(0), blank)["params"]
    norm = 2 * 256
    aspp = (2048 * 256 + norm) + 3 * (9 * 2048 * 256 + norm) + 2048 * 256 + (1280 * 256 + norm)
    fusion = (256 * 48 + 96) + (9 * 304 * 256 + norm) + (9 * 256 * 256 + norm) + (256 * 256 + 256)
    heads = 2 * (256 * 256 + 256) + (256 * 21 + 21) + (256 * 128 + 128)
    assert sum(x.size for x in jax.tree.leaves(params)) == aspp + fusion + heads


def test_biases_stand_only_in_last_convolution_and_heads(variables):
    flat = jax.tree_util.tree_leaves_with_path(variables["params"])
    names = {"/".join(k.key for k in path) for path, _ in flat}
    biased = {n for n in names if n.endswith("/bias") and n.replace("bias", "kernel") in names}
    heads = {f"{h}_head/conv{i}/bias" for h in ("seg", "proj") for i in (1, 2)}
    assert biased == heads | {"fusion/conv3/bias"}
    assert "aspp/pool_bn/scale" not in names


def test_without_dropout_two_passes_are_the_same(variables):
    first, second = (SMALL.apply(variables, features()) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_dropout_follows_its_key_and_is_apart_from_train(variables):
    @jax.jit
    def logits(key):
        return SMALL.apply(variables, features(), dropout=True, rngs={"dropout": key}).logits

    one, other = logits(jax.random.key(0)), logits(jax.random.key(1))
    np.testing.assert_array_equal(one, logits(jax.random.key(0)))
    assert abs(one - other).max() > 1e-3
    SMALL.apply(variables, features(), train=True, mutable=["batch_stats"])  # needs no key


def test_rates_are_used_where_the_paper_puts_them(variables):
    """With one rate set, exactly the values behind that dropout vanish."""
    for i in range(3):
        rates = tuple(0.99 if j == i else 0.0 for j in range(3))
        decoder = SMALL.clone(dropout=rates)
        _, state = decoder.apply(
            variables,
            features(),
            dropout=True,
            rngs={"dropout": jax.random.key(0)},
            capture_intermediates=lambda module, _: type(module).__name__ == "Dropout",
            mutable=["intermediates"],
        )
        seen = state["intermediates"]
        places = [
            *(seen["aspp"]["Dropout_0"], seen["fusion"]["Dropout_0"], seen["fusion"]["Dropout_1"])
        ]
        dropped = [float((place["__call__"][0] == 0).mean()) for place in places]
        assert dropped[i] > 0.97
        assert all(share < 0.9 for j, share in enumerate(dropped) if j != i)


def test_image_pooling_reaches_every_pixel():
    """A change in one corner moves the other only through the image's mean."""
    aspp = Aspp(4, (1,), 0.0)
    x = features((9, 9)).high
    variables = jax.jit(aspp.init)(jax.random.key(2, impl="rbg"), x)
    variables["params"]["pool_conv"]["kernel"] = jnp.ones_like(
        variables["params"]["pool_conv"]["kernel"]
    )
    apply = jax.jit(aspp.apply)
    moved = x.at[:, 0, 0].add(50.0)
    assert abs(apply(variables, moved) - apply(variables, x))[:, -1, -1].max() > 1e-3
    variables["params"]["pool_conv"]["kernel"] *= 0
    assert abs(apply(variables, moved) - apply(variables, x))[:, -1, -1].max() == 0
