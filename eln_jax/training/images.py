"""`images.json`: which images a run learns from and is scored on, for later commands and people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eln_jax.data.sources import Source
from eln_jax.errors import UserError
from eln_jax.output import write_whole
from eln_jax.training.inputs import Inputs

IMAGES = "images.json"
_SHOWN = 3  # names in a sentence


def images_of(inputs: Inputs, root: str) -> dict[str, list[str]]:
    """The images of each part, "labeled", "unlabeled" and "val": below the data set's root."""
    partition = inputs.partition
    return {
        "labeled": _names(inputs.train, partition.labeled, root),
        "unlabeled": _names(inputs.train, partition.unlabeled, root),
        "val": _names(inputs.val, partition.val, root),
    }


def keep_images(workdir: Path, images: Mapping[str, Sequence[str]]) -> None:
    """Writes `images.json`, in one move."""
    write_whole(workdir / IMAGES, (json.dumps(images, indent=1) + "\n").encode())


def read_images(workdir: Path) -> dict[str, list[str]]:
    """What `keep_images` wrote; empty of runs older than it, and of what is no run."""
    try:
        return json.loads((workdir / IMAGES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{workdir / IMAGES}: damaged ({error}); put it back.") from error


def changes(old: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]]) -> list[str]:
    """Says of each part which images have gone and which have come."""
    found = []
    for part in old:
        before, now = set(old[part]), set(new[part])
        for word, some in (("less", before - now), ("more", now - before)):
            if some:
                found.append(f"{part}: {len(some)} {word} ({_few(sorted(some))})")
    return found


def refuse_learned(folder: Path, data: Any, source: Source, indices: Sequence[int]) -> None:
    """Refuses to call images validation images that a run has learned from.

    Args:
        folder: of the run; what is known of none is not refused, nor those of another data set,
            whose files may have the same names.
        data: the `data` block of its configuration, as it is now.
        source: of the images.
        indices: which.

    Raises:
        UserError: it has, as where masks were added since, and the draw is another.
    """
    images = read_images(folder)
    if not images:
        return
    kept = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if Path(kept["data"]["root"]).resolve() != Path(data.root).resolve():
        return
    learned = set(images["labeled"])
    if kept["steps"]["semi_supervised"]:
        learned |= set(images["unlabeled"])
    both = [name for name in _names(source, indices, data.root) if name in learned]
    if both:
        raise UserError(
            f"{len(both)} of {len(indices)} validation images are such as {folder} was trained on "
            f"({_few(both)}): images or masks have come or gone since. Name validation images in a "
            f"file, --config.data.val_list=FILE; those of the training are in {folder / IMAGES}."
        )


def _names(source: Source, indices: Sequence[int], root: str) -> list[str]:
    return [_below(source.location(index), root) for index in indices]


def _below(location: str, root: str) -> str:
    path = Path(location)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else location


def _few(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])
