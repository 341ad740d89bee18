import jax.numpy as jnp
import numpy as np
import pytest

from eln_jax.method import gates

# Two pixels: a sure one of class 2 and an undecided one; the ELN trusts only the undecided one.
LOGITS = jnp.array([[[[0.0, 0.0, 6.0], [0.1, 0.0, 0.0]]]])
ELN_LOGITS = jnp.array([[[-1.0, 1.0]]])


@pytest.mark.parametrize(
    ("gate", "threshold", "kept"),
    [
        ("none", 0.9, [True, True]),
        ("confidence", 0.9, [True, False]),
        ("confidence", 0.3, [True, True]),
        ("entropy", 0.5, [True, False]),
        ("eln", 0.5, [False, True]),
        ("eln", 0.75, [False, False]),
    ],
)
def test_what_each_gate_keeps(gate, threshold, kept):
    label, valid_mask = gates.pseudo_labels(LOGITS, ELN_LOGITS, gate=gate, threshold=threshold)
    np.testing.assert_array_equal(label, [[[2, 0]]])
    np.testing.assert_array_equal(valid_mask, [[kept]])


def test_entropy_score_spans_zero_to_one():
    uniform, certain = jnp.zeros((1, 1, 1, 5)), 100.0 * jnp.eye(5)[None, None, :1]
    assert not gates.keep_low_entropy(uniform, ELN_LOGITS, 0.001)[0, 0, 0]
    assert gates.keep_low_entropy(certain, ELN_LOGITS, 0.999)[0, 0, 0]
