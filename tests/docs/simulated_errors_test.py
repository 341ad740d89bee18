from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs import simulated_errors
from eln_jax.data.simulated_errors.simulation import OPS

DOCS = Path(simulated_errors.__file__).parent


def test_the_page_and_the_picture_show_every_op():
    assert [title for title in simulated_errors.DRAWN if title in OPS] == list(OPS)
    page = (DOCS / "simulated_errors.md").read_text()
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert rows == list(OPS)
    assert (DOCS / "images" / "simulated_errors.png").stat().st_size < 300_000


@pytest.mark.parametrize("title", simulated_errors.DRAWN)
def test_every_picture_has_an_error_that_can_be_seen(title):
    scene, seed = simulated_errors.DRAWN[title]
    label = simulated_errors.SCENES.read_label(scene)
    errors = simulated_errors.make_errors(title, label, np.random.default_rng(seed))
    assert 0.03 < (errors != label).mean() < 0.3


def test_the_picture_can_be_drawn_again(tmp_path):
    simulated_errors.draw(tmp_path / "again.png")
    committed = DOCS / "images" / "simulated_errors.png"
    with Image.open(tmp_path / "again.png") as again, Image.open(committed) as before:
        assert again.size == before.size
