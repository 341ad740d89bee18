"""The wired networks: one grouped pass against separate passes, variables, export."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from eln_jax.models.segmenter import build_networks, init_networks

TINY = {
    "encoder": "resnet_tiny",
    "eln_encoder": "resnet_tiny",
    "output_stride": 16,
    "num_classes": 4,
    "width": 16,
    "low_width": 8,
    "embedding_size": 8,
    "eln_width": 16,
}
NETWORKS = build_networks(**TINY)


@pytest.fixture(scope="module")
def draw():
    init = partial(init_networks, NETWORKS, crop_size=(32, 32), num_aux_decoders=2)
    return jax.jit(lambda seed: init(jax.random.key(seed, impl="rbg")))


@pytest.fixture(scope="module")
def variables(draw):
    return draw(0)


def of(variables, name):
    return {kind: tree[name] for kind, tree in variables.items()}


def images(count, size=(32, 33), seed=0):
    x = np.random.default_rng(seed).standard_normal((count, *size, 3))
    return jnp.asarray(x, jnp.float32)


def test_variables_form_the_agreed_tree(variables):
    for kind in ("params", "batch_stats"):
        tree = variables[kind]
        assert sorted(tree) == ["aux_decoders", "eln", "student"]
        assert sorted(tree["student"]) == ["decoder", "encoder"]
        assert sorted(tree["aux_decoders"]) == ["0", "1"]
        for aux in tree["aux_decoders"].values():
            assert jax.tree.structure(aux) == jax.tree.structure(tree["student"]["decoder"])


def test_every_decoder_starts_from_weights_of_its_own(variables):
    decoders = [*variables["params"]["aux_decoders"].values()]
    decoders.append(variables["params"]["student"]["decoder"])
    kernels = [d["aspp"]["conv1"]["kernel"] for d in decoders]
    for i in range(3):
        assert abs(kernels[i] - kernels[i - 1]).max() > 0.01


def test_weights_follow_the_key(draw, variables):
    jax.tree.map(np.testing.assert_array_equal, draw(0), variables)
    kernels = [v["params"]["eln"]["head"]["conv1"]["kernel"] for v in (variables, draw(1))]
    assert abs(kernels[0] - kernels[1]).max() > 0.01


def test_every_norm_starts_at_one(variables):
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        if path[-1].key == "scale":
            np.testing.assert_array_equal(leaf, 1)


def test_no_auxiliary_decoder_is_allowed():
    init = partial(init_networks, NETWORKS, crop_size=(32, 32), num_aux_decoders=0)
    assert jax.eval_shape(init, jax.random.key(0))["params"]["aux_decoders"] == {}


def test_grouped_pass_equals_separate_passes(variables):
    """Outputs, gradients and running statistics (docs/method.md says why)."""
    start, image = of(variables, "student"), images(6)
    weight = jnp.asarray(np.random.default_rng(1).standard_normal((6, 8, 9, 4)), jnp.float32)

    @partial(jax.jit, static_argnames="groups")
    def run(params, batch_stats, image, weight, groups):
        def loss(params):
            prediction, updates = NETWORKS.student.apply(
                {"params": params, "batch_stats": batch_stats},
                image,
                train=True,
                groups=groups,
                mutable=["batch_stats"],
            )
            return (prediction.logits * weight).sum(), (prediction.logits, updates["batch_stats"])

        return jax.grad(loss, has_aux=True)(params)

    params, stats = start["params"], start["batch_stats"]
    grouped, (grouped_logits, grouped_stats) = run(params, stats, image, weight, (2, 2, 2))
    separate, logits = jax.tree.map(jnp.zeros_like, params), []
    for i in (0, 2, 4):
        part = slice(i, i + 2)
        gradient, (part_logits, stats) = run(params, stats, image[part], weight[part], None)
        separate = jax.tree.map(jnp.add, separate, gradient)
        logits.append(part_logits)

    def assert_close(value, expected):
        np.testing.assert_allclose(value, expected, atol=1e-3 * float(abs(expected).max()) + 1e-5)

    assert_close(grouped_logits, jnp.concatenate(logits))
    jax.tree.map(assert_close, grouped, separate)
    jax.tree.map(assert_close, grouped_stats, stats)


def test_call_is_encode_then_decode(variables):
    student, v, image = NETWORKS.student, of(variables, "student"), images(1)

    @jax.jit
    def run(image):
        features = student.apply(v, image, method="encode")
        decoded = student.apply(v, features, method="decode")
        both = student.apply(v, image, method="features_and_prediction")
        return (features, decoded), both, student.apply(v, image)

    separate, both, called = run(image)
    jax.tree.map(np.testing.assert_array_equal, separate, both)
    jax.tree.map(np.testing.assert_array_equal, separate[1], called)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("size", [(64, 64), (65, 64)])
@pytest.mark.parametrize("encoder", ["resnet_tiny", "efficientnet_lite0"])
def test_bfloat16_networks_return_float32_at_stride_4(encoder, size, output_stride):
    options = {"encoder": encoder, "output_stride": output_stride, "dtype": jnp.bfloat16}
    networks = build_networks(**TINY | options)
    key = jax.random.key(0)
    v = jax.eval_shape(lambda: init_networks(networks, key, (64, 64), 1))
    assert {x.dtype for x in jax.tree.leaves(v)} == {jnp.dtype("float32")}
    prediction = jax.eval_shape(networks.student.apply, of(v, "student"), images(2, size))
    eln_logits = jax.eval_shape(
        networks.eln.apply, of(v, "eln"), images(2, size), prediction.logits
    )
    small = tuple(-(-n // 4) for n in size)
    assert prediction.logits.shape == (2, *small, 4)
    assert prediction.embeddings.shape == (2, *small, 8)
    assert eln_logits.shape == (2, *small)
    assert {x.dtype for x in (*prediction, eln_logits)} == {jnp.dtype("float32")}


def test_output_stride_8_doubles_the_rates():
    assert build_networks(**TINY).student.decoder.rates == (6, 12, 18)
    networks = build_networks(**TINY | {"output_stride": 8})
    assert networks.student.decoder.rates == (12, 24, 36)
    assert networks.aux_decoder.rates == networks.eln.rates == (12, 24, 36)


def test_student_and_eln_export_with_symbolic_sizes(variables):
    """One program for every size and platform, equal to the program traced for this size."""

    def judge(image):
        prediction = NETWORKS.student.apply(of(variables, "student"), image)
        eln_logits = NETWORKS.eln.apply(of(variables, "eln"), image, prediction.logits)
        return prediction.logits, eln_logits

    spec = jax.ShapeDtypeStruct(export.symbolic_shape("b, h, w, 3"), jnp.float32)
    program = export.export(jax.jit(judge), platforms=("cpu", "cuda", "tpu"))(spec)
    image = images(2, (48, 37))
    for value, expected in zip(jax.jit(program.call)(image), jax.jit(judge)(image), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-4 * abs(expected).max())


def squares(student, variables, image):
    """A loss of parameters that has all of a training's modes, and the moved statistics."""
    mode = {"train": True, "dropout": True, "groups": (1, 2), "mutable": ["batch_stats"]}

    def loss(params):
        rngs = {"dropout": jax.random.key(1)}
        prediction, moved = student.apply({**variables, "params": params}, image, **mode, rngs=rngs)
        return (prediction.logits**2).mean() + (prediction.embeddings**2).mean(), moved

    return loss


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("official", "resnet_tiny"), ("torchvision", "efficientnet_lite0")],
)
def test_rematerialised_networks_keep_less_for_the_backward_pass(architecture, encoder):
    image = images(3, (128, 129))

    def kept(rematerialize):
        names = {"encoder": encoder, "architecture": architecture}
        student = build_networks(**TINY | names, rematerialize=rematerialize).student
        variables = jax.eval_shape(student.init, jax.random.key(0), image)

        def backward(variables):
            return jax.vjp(squares(student, variables, image), variables["params"], has_aux=True)[1]

        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(backward, variables)))

    assert kept(True) < 0.6 * kept(False)


def test_rematerialised_networks_have_the_same_gradients(variables):
    found = []
    for again in (False, True):
        student = build_networks(**TINY, rematerialize=again).student
        loss = squares(student, of(variables, "student"), images(3))
        params = variables["params"]["student"]
        found.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), *found)
