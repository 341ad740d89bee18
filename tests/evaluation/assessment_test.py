"""The tables of an evaluation."""

import io

import numpy as np
import pytest
from rich.console import Console

from eln_jax.evaluation import scoring
from eln_jax.evaluation.assessment import assess, class_table
from eln_jax.evaluation.inference import Predictor
from eln_jax.method.gates import GateSettings

LABEL = np.zeros((8, 8), np.uint8)
LABEL[:, 4:] = 1


def answer(outputs, _):
    return outputs


@pytest.mark.parametrize(("gate", "shown"), [("eln", True), ("none", False), (None, False)])
def test_what_a_gate_keeps_stands_beside_each_class_if_it_rejects_anything(gate, shown):
    # Everything is taken for class 0; the ELN trusts the upper half.
    logits = np.zeros((1, 8, 8, 2), np.float32)
    logits[..., 0] = 1.0
    eln_logits = np.where(np.arange(8)[:, None] < 4, 1.0, -1.0) * np.ones((1, 8, 8), np.float32)
    predictor = Predictor(answer, (logits, eln_logits.astype(np.float32)), pad_multiple=8)
    example = {"id": "a", "image": np.zeros((8, 8, 3), np.uint8), "label": LABEL}
    keep = gate and scoring.make_gate(GateSettings(gate=gate))
    found = assess(predictor, [example], ("ground", "tree"), 255, keep)
    file = io.StringIO()
    Console(file=file, width=120).print(class_table(found))
    rows = [line.split() for line in file.getvalue().splitlines()]
    ground = next(row for row in rows if row[:1] == ["ground"])
    assert ground[1:3] == ["50.0", "100.0"]
    assert (ground[-1] == "50.0" and len(ground) == 6) is shown
    tree = next(row for row in rows if row[:1] == ["tree"])
    assert (tree[-1] == "-") is shown  # nothing is predicted as it
    assert (
        "kept by the gate 50.0, right of those 50.0" in " ".join(file.getvalue().split())
    ) is shown
