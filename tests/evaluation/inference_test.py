import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eln_jax.evaluation import inference
from eln_jax.evaluation.inference import Predictor

WEIGHT = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def network(variables, image):
    """Three-channel means of 4x4 blocks, mixed into 5 classes; stride 4 as the real ones."""
    blocks = image.astype(jnp.float32).reshape(
        image.shape[0], image.shape[1] // 4, 4, image.shape[2] // 4, 4, 3
    )
    mean = blocks.mean((2, 4)) / 40.0
    return mean @ variables, mean[..., 0] - 3.0


def without_eln(variables, image):
    return network(variables, image)[0], None


def image_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def expected_maps(image):
    """Another route in float64: pad, mean, interpolate point by point, softmax, sort."""
    height, width = image.shape[:2]
    rows, columns = -(-height // 32) * 32, -(-width // 32) * 32
    padded = np.empty((rows, columns, 3))
    padded[:] = (124, 116, 104)
    padded[:height, :width] = image
    small = padded.reshape(rows // 4, 4, columns // 4, 4, 3).mean((1, 3)) / 40.0
    joined = np.concatenate([small @ WEIGHT.astype(float), small[..., :1] - 3.0], -1)
    y = np.arange(height) * (rows // 4 - 1) / (rows - 1)
    x = np.arange(width) * (columns // 4 - 1) / (columns - 1)
    tall = np.stack([interpolate(joined[:, j], y) for j in range(columns // 4)], 1)
    full = np.stack([interpolate(tall[i], x) for i in range(height)])
    logits, eln_logits = full[..., :5], full[..., 5]
    odds = np.exp(logits)
    probability = odds / odds.sum(-1, keepdims=True)
    ordered = np.sort(probability, -1)
    return (
        probability.argmax(-1),
        ordered[..., -1],
        -(probability * np.log(probability)).sum(-1) / np.log(5),
        ordered[..., -1] - ordered[..., -2],
        1 / (1 + np.exp(-eln_logits)),
    )


def interpolate(values, position):
    return np.stack(
        [np.interp(position, np.arange(len(values)), channel) for channel in values.T], -1
    )


@pytest.mark.parametrize("size", [(45, 70), (64, 32), (1, 1)])
def test_maps_equal_an_independent_computation_at_original_size(size):
    image = image_of(*size)
    maps = Predictor(network, WEIGHT).predict(image)
    label, *values = expected_maps(image)
    assert maps.prediction.dtype == np.uint8
    assert maps.prediction.shape == size
    assert (maps.prediction == label).mean() > 0.999  # a tie may fall either way
    for found, expected in zip(maps[1:5], values, strict=True):
        assert found.dtype == np.float32
        assert found.min() >= 0.0
        assert found.max() <= 1.0
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_without_an_eln_there_is_no_map_of_it():
    maps = Predictor(without_eln, WEIGHT).predict(image_of(40, 40))
    assert maps.p_right is None
    assert set(maps.scores()) == {"max_prob", "entropy", "margin"}


@pytest.mark.parametrize("batch_size", [2, 3])
def test_batching_changes_neither_order_nor_values(batch_size):
    sizes = [(40, 40), (40, 40), (70, 33), (33, 33), (40, 70), (70, 33), (40, 40)] * 3
    examples = [{"id": i, "image": image_of(*s, seed=i)} for i, s in enumerate(sizes)]
    found = list(Predictor(network, WEIGHT, batch_size=batch_size).stream(examples))
    assert [example["id"] for example, _ in found] == list(range(len(sizes)))
    single = Predictor(network, WEIGHT)
    for example, maps in found:
        alone = single.predict(example["image"])
        np.testing.assert_array_equal(maps.prediction, alone.prediction)
        for batched, unbatched in zip(maps[:5], alone[:5], strict=True):
            np.testing.assert_allclose(batched, unbatched, atol=1e-6)


def test_of_large_images_fewer_share_a_batch(monkeypatch):
    monkeypatch.setattr(inference, "_MOST_PIXELS", 3 * 64 * 64)
    shapes = []

    def recording(variables, image):
        shapes.append(image.shape)  # runs once for each compilation
        return network(variables, image)

    sizes = [(30, 30)] * 5 + [(60, 60)] * 4 + [(128, 128)] * 2
    examples = [{"id": i, "image": image_of(*s, seed=i)} for i, s in enumerate(sizes)]
    found = list(Predictor(recording, WEIGHT, batch_size=4).stream(examples))
    assert shapes == [(4, 32, 32, 3), (3, 64, 64, 3), (1, 128, 128, 3)]
    assert [example["id"] for example, _ in found] == list(range(len(sizes)))
    assert [maps.prediction.shape for _, maps in found] == sizes


def test_every_batch_of_a_shape_has_the_same_size_and_few_images_wait():
    shapes, read = [], []

    def recording(variables, image):
        shapes.append(image.shape)  # runs once for each compilation
        return network(variables, image)

    def examples():
        for i in range(30):
            read.append(i)
            # One rare large image must not keep all the following ones waiting.
            yield {"id": i, "image": image_of(60 if i == 0 else 30, 30, seed=i)}

    stream = Predictor(recording, WEIGHT, batch_size=2).stream(examples())
    assert next(stream)[0]["id"] == 0
    assert len(read) <= 12
    assert len(list(stream)) == 29
    assert sorted(shapes) == [(2, 32, 32, 3), (2, 64, 32, 3)]


def test_new_weights_do_not_compile_again():
    compilations = []

    def recording(variables, image):
        compilations.append(image.shape)
        return network(variables, image)

    image = image_of(32, 32)
    first = Predictor(recording, WEIGHT).predict(image)
    second = Predictor(recording, -WEIGHT).predict(image)
    assert len(compilations) == 1
    assert (first.prediction != second.prediction).any()


def test_padding_has_the_fill_colour_and_no_effect_on_the_rest():
    seen = []

    def recording(variables, image):
        jax.debug.callback(lambda x: seen.append(np.array(x)), image)
        return network(variables, image)

    image = image_of(30, 50)
    Predictor(recording, WEIGHT, fill=(1, 2, 3)).predict(image)
    jax.effects_barrier()
    assert seen[0].shape == (1, 32, 64, 3)
    np.testing.assert_array_equal(seen[0][0, :30, :50], image)
    assert (seen[0][0, 30:] == (1, 2, 3)).all()
    assert (seen[0][0, :, 50:] == (1, 2, 3)).all()


def test_warp_protocol_scales_image_and_label_alike():
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 200
    label = (image[..., 0] > 0).astype(np.uint8)
    label[0] = 255
    predictor = Predictor(network, WEIGHT, warp_size=(44, 36))
    maps = predictor.predict(image)
    warped = predictor.warp_label(label)
    assert maps.prediction.shape == warped.shape == (44, 36)
    assert set(np.unique(warped)) == {0, 1, 255}
    assert (warped[3:, :18] == 0).all()
    assert (warped[3:, 18:] == 1).all()
    np.testing.assert_array_equal(maps.prediction[:, :12], maps.prediction[0, 0])
    assert predictor.warp_image(image).shape == (44, 36, 3)
    plain = Predictor(network, WEIGHT)
    assert plain.warp_label(label) is label
    assert plain.warp_image(image) is image


def test_a_batch_split_over_devices_gives_the_same():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    replicated = jax.device_put(WEIGHT, NamedSharding(mesh, PartitionSpec()))
    examples = [{"image": image_of(32, 32, seed=i)} for i in range(6)]
    split = Predictor(network, replicated, batch_size=4, sharding=sharding).stream(examples)
    plain = Predictor(network, WEIGHT).stream(examples)
    for (_, ours), (_, theirs) in zip(split, plain, strict=True):
        for a, b in zip(ours[:5], theirs[:5], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
