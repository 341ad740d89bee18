"""Where commands write: what breaks off leaves nothing in the way of the next try."""

import pytest

from eln_jax.output import all_or_nothing


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
