"""Which images of a run may later be called validation images."""

import json
from types import SimpleNamespace

import pytest

from eln_jax.errors import UserError
from eln_jax.training.images import keep_images, refuse_learned


def lay_run(folder, root, semi_supervised):
    folder.mkdir()
    config = {"data": {"root": str(root)}, "steps": {"semi_supervised": semi_supervised}}
    (folder / "config.json").write_text(json.dumps(config))
    keep_images(folder, {"labeled": ["a.png"], "unlabeled": ["b.png"], "val": ["c.png"]})


def judge(folder, root, *names):
    source = SimpleNamespace(location=lambda index: str(root / names[index]))
    refuse_learned(folder, SimpleNamespace(root=str(root)), source, range(len(names)))


@pytest.mark.parametrize("learned", ["a.png", "b.png"])
def test_images_learned_from_are_refused(tmp_path, learned):
    lay_run(tmp_path / "run", tmp_path / "data", 10)
    with pytest.raises(UserError, match=rf"1 of 2 .*\({learned}\)"):
        judge(tmp_path / "run", tmp_path / "data", "c.png", learned)


def test_the_same_names_in_another_folder_are_other_images(tmp_path):
    lay_run(tmp_path / "run", tmp_path / "data", 10)
    judge(tmp_path / "run", tmp_path / "test", "a.png", "b.png")


def test_a_run_without_a_third_phase_has_not_learned_from_unlabelled_images(tmp_path):
    lay_run(tmp_path / "run", tmp_path / "data", 0)
    judge(tmp_path / "run", tmp_path / "data", "b.png", "c.png")
    with pytest.raises(UserError, match="1 of 1"):
        judge(tmp_path / "run", tmp_path / "data", "a.png")


def test_of_a_folder_without_a_record_nothing_is_refused(tmp_path):
    judge(tmp_path, tmp_path, "a.png")
