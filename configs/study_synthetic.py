"""Gates side by side on the built-in synthetic scenes: to see what a study gives.

    python -m eln_jax.study --config=configs/study_synthetic.py --output=runs/study

The variant "short" (configs/study_synthetic.py:short) only shows that everything runs.
"""

from eln_jax.defaults import check_variant


def get_config(variant: str = ""):
    """Returns the study."""
    check_variant(variant, ("short",))
    overrides = {
        "compare_supervised": False,
        "data.partition_seed": "{seed}",
        "steps.supervised": 300,
        "steps.eln": 100,
        "steps.semi_supervised": 300,
        "checkpoint.keep": 1,
        "log.tensorboard": False,
    }
    if variant == "short":
        overrides |= {
            "crop_size": (48, 48),
            "steps.supervised": 4,
            "steps.eln": 4,
            "steps.semi_supervised": 4,
            "model.width": 16,
            "model.eln_width": 16,
            "data.synthetic.train_size": 32,
            "data.synthetic.val_size": 4,
            "eval.every": 100,
        }
    steps = sum(overrides[f"steps.{phase}"] for phase in ("supervised", "eln", "semi_supervised"))
    return {
        "config": "quickstart.py",
        "overrides": overrides,
        "seeds": (0, 1, 2),
        "reference": "none",
        "arms": {
            "supervised_only": {
                "steps.supervised": steps,
                "steps.eln": 0,
                "steps.semi_supervised": 0,
            },
            "none": {"method.gate": "none"},
            "confidence": {"method.gate": "confidence"},
            "eln": {"method.gate": "eln"},
            "oracle": {"method.gate": "oracle"},
        },
    }
