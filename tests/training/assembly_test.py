import jax
import numpy as np
import pytest
from PIL import Image

from eln_jax.errors import UserError
from eln_jax.training import assembly
from tests.tiny import tiny_config


def arguments(parts):
    """What the compiled steps were given."""
    return parts.programs.steps["supervised"].__wrapped__.keywords["args"]


@pytest.fixture(scope="module")
def tiny():
    """Parts of the tiny configuration."""
    return assembly.build(tiny_config())


def test_class_weights_are_inverse_roots_of_mean_one():
    # Shares 1/4, 1/16, absent: roots 2 and 4, mean 3 over the two that occur.
    weights = assembly._sqrt_weights(np.array([0.25, 0.0625, 0.0]))
    assert weights == pytest.approx((2 / 3, 4 / 3, 0.0))


def test_weights_come_from_the_labelled_images_alone():
    config = tiny_config(method__class_balance="sqrt")
    parts = assembly.build(config)
    counts = np.zeros(6)
    for index in parts.data.partition.labeled:
        label = parts.data.train.read_label(index)
        counts += [(label == value).sum() for value in range(6)]
    roots = np.where(counts > 0, np.sqrt(counts.sum() / np.maximum(counts, 1)), 0)
    settings = arguments(parts).settings
    np.testing.assert_allclose(settings.class_weights, roots / roots[counts > 0].mean(), rtol=1e-6)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def test_weights_count_the_pixels_of_the_labelled_masks_without_void(tmp_path):
    # The two labelled masks hold 16 rows of class 0, 9 of class 1 and 15 of void together; what
    # is not labelled, or validates, holds class 2 alone.
    rows = {"a": [0] * 10 + [1] * 9 + [255], "b": [0] * 6 + [255] * 14, "c": [2] * 20}
    for name, values in rows.items():
        write(tmp_path / f"images/train/{name}.png", np.zeros((20, 24, 3)))
        write(tmp_path / f"masks/train/{name}.png", np.repeat([values], 24, 0).T)
    write(tmp_path / "images/val/d.png", np.zeros((20, 24, 3)))
    write(tmp_path / "masks/val/d.png", np.full((20, 24), 2))
    (tmp_path / "labeled.txt").write_text("a\nb\n")
    config = tiny_config(
        method__class_balance="sqrt",
        data__source="folder",
        data__root=str(tmp_path),
        data__num_classes="3",
        data__partition=str(tmp_path / "labeled.txt"),
        data__labeled_count="0",
    )
    # Shares 16/25 and 9/25: roots of their inverses 5/4 and 5/3, as 3 to 4.
    weights = arguments(assembly.build(config)).settings.class_weights
    assert weights == pytest.approx((6 / 7, 8 / 7, 0.0))


def test_without_balance_there_are_no_weights(tiny):
    assert arguments(tiny).settings.class_weights is None


def test_the_description_says_what_is_trained_on(tiny):
    for words in ("4 labelled and 8 unlabelled", "validating on 4", "3 eln", "4 x cpu"):
        assert words in tiny.description
    assert "serve as unlabelled" not in tiny.description
    assert "caution" not in tiny.description


def test_scores_of_few_images_are_to_be_doubted():
    parts = assembly.build(tiny_config(data__synthetic__val_size="3"))
    assert "validating on 3" in parts.description
    assert parts.description.endswith("take the scores with caution.")


def test_labelled_images_stand_in_where_none_is_unlabelled():
    parts = assembly.build(tiny_config(data__labeled_count="12"))
    assert "12 labelled and 0 unlabelled" in parts.description
    assert "serve as unlabelled too" in parts.description
    batches = {}
    for name, stream in parts.data.streams.items():
        iterator = iter(stream)
        batches[name] = next(iterator)
        iterator.close()
    assert set(batches["unlabeled"]) == {"image", "inside"}
    assert batches["unlabeled"]["image"].shape == (4, 32, 32, 3)
    # The same scenes, but neither their order nor their crops.
    fingerprint = parts.data.fingerprint
    assert fingerprint["unlabeled"]["ids_sha256"] == fingerprint["labeled"]["ids_sha256"]
    assert fingerprint["unlabeled"]["images"] == 12
    assert not np.array_equal(batches["unlabeled"]["image"], batches["labeled"]["image"])


@pytest.fixture(scope="module")
def first_updates():
    """The first update by gradients of 1, of each network; weights are 2."""
    config = tiny_config(optim__encoder_factor="0.25", optim__weight_decay="0.5")
    parts = assembly.build(config)
    weights = jax.tree.map(
        lambda x: np.full(x.shape, 2, np.float32), parts.programs.abstract_state().params
    )
    ones = jax.tree.map(np.ones_like, weights)

    @jax.jit
    def updates():
        tx = arguments(parts).tx
        return {
            name: tx[name].update(ones[name], tx[name].init(weights[name]), weights[name])[0]
            for name in weights
        }

    return updates()


def test_encoders_learn_at_their_share_of_the_rate_and_nothing_else_does(first_updates):
    found = {
        network: {
            part: {float(x) for leaf in jax.tree.leaves(tree) for x in np.unique(leaf)}
            for part, tree in parts.items()
        }
        for network, parts in first_updates.items()
    }
    # SGD's first step: the gradient 1 and half of the weight 2, for a learning rate of 1.
    assert set(found) == {"student", "aux_decoders", "eln"}
    for network, parts in found.items():
        for part, steps in parts.items():
            share = 0.25 if part == "encoder" else 1.0
            assert steps == {-2.0 * share}, (network, part)
    assert "encoder" in found["student"]
    assert "encoder" in found["eln"]
    assert set(found["aux_decoders"]) == {"0", "1"}


def test_the_learning_rate_follows_the_whole_run():
    config = tiny_config(
        optim__schedule="poly", optim__power="2.0", optim__learning_rate="0.5",
        steps__supervised="2", steps__eln="1", steps__semi_supervised="5",
    )  # fmt: skip
    rate = arguments(assembly.build(config)).learning_rate
    np.testing.assert_allclose([rate(0), rate(2), rate(4), rate(8)], [0.5, 0.28125, 0.125, 0])


CHANGED = {
    "supervised_weight": 0.125,
    "aux_weight": 0.25,
    "eln_weight": 0.375,
    "pseudo_label_weight": 0.625,
    "contrastive_weight": 0.75,
    "loss_ceilings": (3.0, 4.0),
    "temperature": 0.07,
    "contrastive_windows": 3,
    "contrastive_window_size": 5,
    "contrastive_form": "official",
    "ema_decay": 0.9,
    "gate": "entropy",
    "gate_threshold": 0.3,
    "gate_mode": "class_floor",
    "gate_fraction": 0.4,
    "gate_confidence": 0.7,
    "second_strong_view": True,
    "feature_dropout": 0.5,
    "eln_in_semi_supervised": False,
    "void_is_error": True,
    "max_error_weight": 7.0,
    "pseudo_label_batch_stats": True,
    "average_batch_stats": False,
    "record_all_batch_stats": True,
    "simulated_weight": 0.5,
}


def test_the_steps_get_the_configured_method():
    overrides = {f"method__{name}": str(value) for name, value in CHANGED.items()}
    args = arguments(
        assembly.build(tiny_config(**overrides, views__hue="0.2", views__blur_sigma="(0.5, 3.0)"))
    )
    found = {name: getattr(args.settings, name) for name in CHANGED}
    assert found == CHANGED
    assert (args.settings.num_classes, args.settings.ignore_label) == (6, 255)
    assert (args.views.hue, args.views.blur_sigma) == (0.2, (0.5, 3.0))


def test_each_encoder_sees_its_own_colours():
    config = tiny_config(model__eln_encoder="efficientnet_lite0")
    parts = assembly.build(config)
    settings = arguments(parts).settings
    # ImageNet's mean and deviation; (RGB - 127) / 128 on bytes.
    assert settings.input_mean == pytest.approx((0.485, 0.456, 0.406))
    assert settings.input_std == pytest.approx((0.229, 0.224, 0.225))
    assert settings.eln_input_mean == pytest.approx((127 / 255,) * 3)
    assert settings.eln_input_std == pytest.approx((128 / 255,) * 3)
    assert parts.evaluation.padding_colour == (124, 116, 104)


def place(array):
    """The address of its copy on the first device."""
    return array.addressable_shards[0].data.unsafe_buffer_pointer()


def test_the_abstract_state_is_that_of_the_first_state(tiny):
    first, abstract = tiny.programs.initial_state(), tiny.programs.abstract_state()
    assert jax.tree.structure(first) == jax.tree.structure(abstract)
    for real, shape in zip(jax.tree.leaves(first), jax.tree.leaves(abstract), strict=True):
        assert (real.shape, real.dtype, real.sharding) == (shape.shape, shape.dtype, shape.sharding)
    # The teacher begins as the student, in memory of its own: steps give the state's away.
    student, teacher = first.params["student"], first.teacher["params"]
    jax.tree.map(np.testing.assert_array_equal, student, teacher)
    places = [{place(leaf) for leaf in jax.tree.leaves(tree)} for tree in (student, teacher)]
    assert places[0].isdisjoint(places[1])


@pytest.mark.parametrize("name", ["batch_size_labeled", "batch_size_unlabeled"])
def test_a_batch_that_does_not_divide_over_the_devices_is_refused(name):
    with pytest.raises(UserError, match=f"{name}=6 does not divide over 4 devices; use 4 or 8"):
        assembly.build(tiny_config(**{name: "6"}))
