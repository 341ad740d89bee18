"""The smallest configuration that runs all of the method, for tests."""

from pathlib import Path

from eln_jax import configuration

QUICKSTART = str(Path(__file__).parent.parent / "configs" / "quickstart.py")

FIELDS = {
    "compare_supervised": "false",
    "crop_size": "(32, 32)",
    "batch_size_labeled": "4",
    "batch_size_unlabeled": "4",
    "steps.supervised": "3",
    "steps.eln": "3",
    "steps.semi_supervised": "3",
    "model.width": "16",
    "model.low_width": "8",
    "model.embedding_size": "8",
    "model.eln_width": "16",
    # SGD: Adam turns rounding into steps of full size where a gradient is almost zero.
    "optim.name": "sgd",
    "optim.learning_rate": "0.01",
    # Another number of steps is no other program to compile.
    "optim.schedule": "constant",
    "data.labeled_count": "4",
    "data.synthetic.train_size": "12",
    "data.synthetic.val_size": "4",
    "data.synthetic.image_size": "(40, 48)",
    "eval.every": "2",
    "eval.batch_size": "4",
    "log.every": "1",
    "log.panel_images": "1",
    "checkpoint.every": "1",
}


def tiny_overrides(**changes: str) -> list[tuple[str, str]]:
    """Pairs of field and text; a change names its field with `__` for the dot."""
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    return list((FIELDS | changed).items())


def tiny_config(**changes: str):
    """The configuration itself."""
    return configuration.load(QUICKSTART, tiny_overrides(**changes))
