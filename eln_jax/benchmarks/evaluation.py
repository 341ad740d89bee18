"""How many images a second evaluation predicts, without and with the ELN's judgement."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from eln_jax.benchmarks.figures import spread
from eln_jax.evaluation.inference import Predictor
from eln_jax.training import sharding
from eln_jax.training.networks import make_evaluation_networks, make_networks
from eln_jax.training.programs import Programs

_BATCHES = 4  # of a round
_ROUNDS = 5


def measure_evaluation(
    config: Any, programs: Programs, say: Callable[[str], None]
) -> dict[str, Any]:
    """Predicts images of noise of the crop's size, whole, as an evaluation does.

    Args:
        config: of the run.
        programs: of the run; the teacher of the first state predicts.
        say: told what goes on.

    Returns:
        "image_size"; "batch"; "images_per_second" and "images_per_second_with_eln", each with the
        least and the median of several rounds, from uint8 images to maps on the host.
    """
    networks = make_evaluation_networks(config, make_networks(config))
    state = programs.initial_state()
    batch = sharding.round_up(config.eval.batch_size, programs.mesh)
    rng = np.random.default_rng(0)
    examples = [
        {"id": str(n), "image": rng.integers(0, 256, (*config.crop_size, 3), np.uint8)}
        for n in range(batch)
    ]
    report: dict[str, Any] = {"image_size": list(config.crop_size), "batch": batch}
    for name, network in (
        ("images_per_second", networks.network),
        ("images_per_second_with_eln", networks.network_with_eln),
    ):
        say(f"Timing evaluation: {name} ...")
        variables = {"network": state.teacher}
        if network is networks.network_with_eln:
            variables["eln"] = {
                "params": state.params["eln"],
                "batch_stats": state.batch_stats["eln"],
            }
        predictor = Predictor(
            network=network,
            variables=variables,
            batch_size=batch,
            pad_offset=config.crop_size[0] % 8,
            fill=networks.padding_colour,
            sharding=sharding.split(programs.mesh),
        )
        for _ in predictor.stream(iter(examples)):  # compiles
            pass
        rates = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            count = sum(1 for _ in predictor.stream(iter(examples * _BATCHES)))
            rates.append(count / (time.perf_counter() - started))
        report[name] = spread(rates)
    return report
