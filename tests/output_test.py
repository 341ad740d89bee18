"""Where commands write: what breaks off leaves nothing in the way of the next try."""

import pytest

from eln_jax.errors import UserError
from eln_jax.output import all_or_nothing, refuse_taken, write_whole


def write_folder(partial):
    partial.mkdir()
    (partial / "a").write_text("a")
    (partial / "b").write_text("b")


def write(output, make, error=None):
    with all_or_nothing(output) as partial:
        make(partial)
        if error:
            raise error


@pytest.mark.parametrize("name", ["new", "deep/new", "there", "link"])
def test_a_folder_is_there_as_a_whole_or_not_at_all(tmp_path, name):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    output, existed = tmp_path / name, (tmp_path / name).exists()
    with pytest.raises(OSError, match="full"):
        write(output, write_folder, OSError("full"))
    assert output.exists() == existed
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    write(output, write_folder)
    assert sorted(path.name for path in output.iterdir()) == ["a", "b"]
    assert not list(tmp_path.rglob(".*"))


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path):
    output = tmp_path / "x.pth"
    with pytest.raises(OSError, match="full"):
        write(output, lambda partial: partial.write_text("half"), OSError("full"))
    assert not list(tmp_path.iterdir())
    write(output, lambda partial: partial.write_text("whole"))
    assert output.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [output]


def test_what_a_killed_try_left_is_in_nobodys_way(tmp_path):
    (tmp_path / "out" / ".unfinished_x" / "new").mkdir(parents=True)
    refuse_taken(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    refuse_taken(tmp_path / "new")


@pytest.mark.parametrize(
    "lay", [lambda p: p.write_text("x"), lambda p: (p / "a").mkdir(parents=True)]
)
def test_what_is_there_is_refused_and_stays(tmp_path, lay):
    lay(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="exists already"):
        refuse_taken(tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path, full):
    (tmp_path / "x.tmp").symlink_to(full)
    with pytest.raises(OSError, match="No space left") as error:
        write_whole(tmp_path / "x.json", b"much")
    assert error.value.filename == str(tmp_path / "x.json")
    assert not list(tmp_path.iterdir())
