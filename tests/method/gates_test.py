"""Every gate and mode against hand-made pixels and independent computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from eln_jax.method import calibration, gates

# Two pixels: a sure one of class 2 and an undecided one; the ELN trusts only the undecided one.
LOGITS = jnp.array([[[[0.0, 0.0, 6.0], [0.1, 0.0, 0.0]]]])
ELN_LOGITS = jnp.array([[[-1.0, 1.0]]])
TRUTH = jnp.array([[[1, 0]]])
INSIDE = jnp.ones((1, 1, 2), bool)


def settings(gate, **fields):
    return gates.GateSettings(gate=gate, **{f"gate_{k}": v for k, v in fields.items()})


def evidence(**changes):
    # P(right) of the regressions: 0.98 if class 2 is predicted, 0.12 if class 0.
    rows = np.zeros((3, calibration.num_features(3)), np.float32)
    rows[:, 0] = (-2.0, 0.0, 4.0)
    return gates.Evidence(LOGITS, ELN_LOGITS, jnp.array(rows), TRUTH)._replace(**changes)


@pytest.mark.parametrize(
    ("gate", "fields", "kept"),
    [
        ("none", {"threshold": 0.9}, [True, True]),
        ("confidence", {"threshold": 0.9}, [True, False]),
        ("confidence", {"threshold": 0.3}, [True, True]),
        ("confidence", {}, [True, False]),
        ("confidence", {"mode": "quantile", "fraction": 0.5}, [True, False]),
        ("confidence", {"mode": "quantile", "fraction": 1.0}, [True, True]),
        ("entropy", {"threshold": 0.5}, [True, False]),
        ("entropy", {"mode": "quantile", "fraction": 0.5}, [True, False]),
        ("margin", {"threshold": 0.01}, [True, True]),
        ("margin", {"threshold": 0.05}, [True, False]),
        ("eln", {"threshold": 0.5}, [False, True]),
        ("eln", {}, [False, True]),
        ("eln", {"threshold": 0.75}, [False, False]),
        ("eln", {"mode": "quantile", "fraction": 0.5}, [False, True]),
        # Each is the best of its class, if not of both.
        ("eln", {"mode": "class_quantile", "fraction": 0.5}, [False, False]),
        ("eln", {"mode": "class_quantile", "fraction": 0.8}, [True, True]),
        ("eln", {"mode": "class_floor", "fraction": 0.5}, [False, True]),
        ("eln", {"mode": "class_floor", "fraction": 0.8}, [True, True]),
        ("eln_and_confidence", {}, [False, False]),
        ("eln_and_confidence", {"confidence": 0.3}, [False, True]),
        ("eln_and_confidence", {"threshold": 0.2}, [True, False]),
        ("class_calibrated", {}, [True, False]),
        ("class_calibrated", {"threshold": 0.1}, [True, True]),
        ("oracle", {}, [False, True]),
    ],
)
def test_what_each_gate_keeps(gate, fields, kept):
    chosen = settings(gate, **fields)
    seen = evidence()
    label, weight = gates.pseudo_labels(seen, INSIDE, chosen)
    np.testing.assert_array_equal(label, [[[2, 0]]])
    assert weight.dtype == bool
    np.testing.assert_array_equal(weight, [[kept]])
    np.testing.assert_array_equal(gates.valid_mask(weight, chosen), weight)
    outside = jnp.array([[[True, False]]])
    _, weight = gates.pseudo_labels(seen, outside, chosen)
    assert not weight[0, 0, 1]


def test_every_gate_is_in_the_table():
    rows = test_what_each_gate_keeps.pytestmark[0].args[1]
    assert {row[0] for row in rows} == set(gates.GATES)


def random_evidence(size=(2, 9, 7), classes=4):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(2 * rng.normal(size=(*size, classes)), jnp.float32)
    return gates.Evidence(logits, jnp.asarray(rng.normal(size=size), jnp.float32))


def test_the_scores_agree_with_scipy():
    seen = random_evidence()
    exp = np.exp(np.asarray(seen.logits, np.float64))
    probability = exp / exp.sum(-1, keepdims=True)
    ranked = np.sort(probability, axis=-1)
    expected = {
        "confidence": ranked[..., -1],
        "margin": ranked[..., -1] - ranked[..., -2],
        "entropy": 1 - stats.entropy(probability, axis=-1) / np.log(4),
        "eln": stats.logistic.cdf(np.asarray(seen.eln_logits, np.float64)),
    }
    for gate, score in expected.items():
        found = gates.GATES[gate].score(seen, settings(gate))
        np.testing.assert_allclose(found, score, atol=2e-6)


@pytest.mark.parametrize("gate", ["confidence", "entropy", "margin", "eln"])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.8, 1.0])
def test_a_quantile_keeps_the_best_of_the_pixels_inside(gate, fraction):
    seen = random_evidence()
    inside = jnp.asarray(np.random.default_rng(1).random((2, 9, 7)) < 0.6)
    chosen = settings(gate, mode="quantile", fraction=fraction)
    _, kept = gates.pseudo_labels(seen, inside, chosen)
    score = np.asarray(gates.GATES[gate].score(seen, chosen))
    count = round(fraction * int(inside.sum()))
    best = np.sort(score[np.asarray(inside)])[::-1][:count]
    np.testing.assert_array_equal(np.sort(score[np.asarray(kept)])[::-1], best)
    assert not np.asarray(kept & ~inside).any()


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.8, 1.0])
def test_a_quantile_of_each_class_is_a_quantile_among_its_pixels(fraction):
    seen = random_evidence()
    # Class 0 is nowhere, class 1 is seldom.
    seen = seen._replace(logits=seen.logits - jnp.array([[[[100.0, 2.0, 0.0, 0.0]]]]))
    inside = jnp.asarray(np.random.default_rng(1).random((2, 9, 7)) < 0.6)
    each = settings("eln", mode="class_quantile", fraction=fraction)
    label, kept = gates.pseudo_labels(seen, inside, each)
    together = settings("eln", mode="quantile", fraction=fraction)
    for class_id in range(4):
        of_class = inside & (label == class_id)
        _, expected = gates.pseudo_labels(seen, of_class, together)
        np.testing.assert_array_equal(kept & of_class, expected)
    assert set(np.unique(label)) == {1, 2, 3}
    assert not np.asarray(kept & ~inside).any()


def test_a_floor_adds_to_the_threshold_what_a_class_lacks():
    seen = random_evidence()
    # Class 0 is nowhere.
    seen = seen._replace(logits=seen.logits - jnp.array([[[[100.0, 0.0, 0.0, 0.0]]]]))
    inside = jnp.asarray(np.random.default_rng(1).random((2, 9, 7)) < 0.6)
    label, kept = gates.pseudo_labels(
        seen, inside, settings("eln", mode="class_floor", fraction=0.5)
    )
    score = np.asarray(gates.GATES["eln"].score(seen, settings("eln")))
    for class_id in range(4):
        of_class = np.asarray((label == class_id) & inside)
        above = int((score[of_class] > 0.5).sum())
        count = max(above, round(0.5 * int(of_class.sum())))
        best = np.sort(score[of_class])[::-1][:count]
        np.testing.assert_array_equal(np.sort(score[np.asarray(kept) & of_class])[::-1], best)


def test_equal_scores_at_the_edge_are_all_kept_and_nothing_of_nothing():
    score = jnp.array([[[0.5, 0.5, 0.5, 0.0]]])
    inside = jnp.ones((1, 1, 4), bool)
    kept = gates.best_fraction(score, inside, 0.25)
    np.testing.assert_array_equal(kept, [[[True, True, True, False]]])
    assert not gates.best_fraction(score, ~inside, 0.25).any()


@pytest.mark.parametrize("logits", [(-18, -19, -20, -21), (14, 13.9, 13.8, 13.7), (1, 0, -1, -2)])
def test_half_of_scores_that_are_nearly_0_or_1_is_half(logits):
    score = jax.nn.sigmoid(jnp.array([[logits]], jnp.float32))
    kept = gates.best_fraction(score, jnp.ones((1, 1, 4), bool), 0.5)
    np.testing.assert_array_equal(kept, [[[True, True, False, False]]])


def test_a_score_in_24_bits_keeps_its_order():
    fine = np.concatenate(
        [np.linspace(0, 1, 1001), np.logspace(-30, 0, 1001), 1 - 0.5 ** np.arange(1, 23)]
    )
    score = np.unique(fine.astype(np.float32))
    keys = np.asarray(gates._in_24_bits(jnp.asarray(score))).astype(np.int64)
    assert (np.diff(keys) > 0).all()
    assert keys[0] == 0
    assert keys[-1] < 2**24


def test_soft_weights_are_the_scores_inside():
    inside = jnp.array([[[True, False]]])
    chosen = settings("eln", mode="soft")
    _, weight = gates.pseudo_labels(evidence(), inside, chosen)
    np.testing.assert_allclose(weight, [[[1 / (1 + np.e), 0.0]]], rtol=1e-6)
    np.testing.assert_array_equal(gates.valid_mask(weight, chosen), [[[False, False]]])
    _, weight = gates.pseudo_labels(evidence(), INSIDE, chosen)
    np.testing.assert_array_equal(gates.valid_mask(weight, chosen), [[[False, True]]])


def test_entropy_score_spans_zero_to_one():
    def kept(logits, threshold):
        seen = gates.Evidence(logits, ELN_LOGITS[..., :1])
        chosen = settings("entropy", threshold=threshold)
        return bool(gates.pseudo_labels(seen, jnp.ones((1, 1, 1), bool), chosen)[1])

    assert not kept(jnp.zeros((1, 1, 1, 5)), 0.001)
    assert kept(100.0 * jnp.eye(5)[None, None, :1], 0.999)


@pytest.mark.parametrize(("gate", "missing"), [("class_calibrated", 2), ("oracle", 3)])
def test_what_a_gate_needs_and_does_not_get_is_an_error(gate, missing):
    seen = gates.Evidence(*[None if i == missing else x for i, x in enumerate(evidence())])
    with pytest.raises(ValueError, match=gate):
        gates.pseudo_labels(seen, INSIDE, settings(gate))
