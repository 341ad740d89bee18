"""A study's runs: which there are, and what they have in common.

A run of one arm and one seed is a chain of up to three: a trunk for the supervised phase, one for
the ELN's, and the arm's own rest. Arms share a trunk where they agree in every field that its
phases read, so that they differ in what follows alone.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eln_jax import configuration
from eln_jax.config_checks import asks_eln
from eln_jax.config_fields import field_names, get
from eln_jax.data.classes import ClassList
from eln_jax.defaults import default_config
from eln_jax.errors import UserError, did_you_mean
from eln_jax.studies.study_file import Study
from eln_jax.training.bookkeeping import phases
from eln_jax.training.opening import find_classes
from eln_jax.training.workdir import is_free

# Fields, and blocks of them, that the third phase alone reads. Any other makes a trunk of its own.
# Two exceptions: trunks evaluate at the end of their phase, however often arms do; and a second
# opinion's comparison is fitted by gate_fit_every, but last at the end of its phase in any case.
_THIRD_PHASE = (
    "batch_size_unlabeled",
    "eval.every",
    "method.average_batch_stats",
    "method.contrastive_",
    "method.ema_decay",
    "method.eln_in_semi_supervised",
    "method.feature_dropout",
    "method.gate",
    "method.pseudo_label_",
    "method.second_strong_view",
    "method.student_reset_every",
    "method.temperature",
    "views.",
)
# Those that the first phase does not read either. The ELN's encoder, weights and width are not
# among them, although it does not read them: a trunk would build its ELN of their defaults, a large
# network with weights from elsewhere.
_AFTER_FIRST_PHASE = (
    *_THIRD_PHASE,
    "data.simulated.",
    "method.aux_weight",
    "method.eln_weight",
    "method.loss_ceilings",
    "method.max_error_weight",
    "method.record_all_batch_stats",
    "method.simulated_weight",
    "method.void_is_error",
    "model.eln_frozen_encoder",
    "model.eln_input",
    "model.eln_second_opinion",
    "model.eln_stem",
    "model.num_aux_decoders",
)


@dataclass(frozen=True)
class Run:
    """A training of the study, in a workdir of its own.

    Attributes:
        title: in words.
        folder: the workdir, below the study's output.
        config: all fields.
        until: the step after which it ends.
        parent: the run whose last checkpoint it begins from; None: from the start.
        seed: of the study's seeds.
        arm: its arm; of a trunk, the first arm that needs it, preferably one that asks the ELN.
        is_trunk: others begin from it, and it is no result itself.
    """

    title: str
    folder: Path
    config: Any
    until: int
    parent: "Run | None"
    seed: int
    arm: str
    is_trunk: bool

    @property
    def start(self) -> int:
        """The step that it begins from."""
        return self.parent.until if self.parent else 0

    @property
    def steps(self) -> dict[str, int]:
        """How many steps of each phase it trains itself."""
        each = {
            phase.name: min(phase.end, self.until) - max(phase.start, self.start)
            for phase in phases(self.config.steps)
        }
        return {name: count for name, count in each.items() if count > 0}

    @property
    def trains_eln(self) -> bool:
        """Whether it is the trunk with an ELN's phase, after which detectors are compared."""
        return self.is_trunk and "eln" in self.steps


def make_runs(study: Study, overrides: Sequence[tuple[str, str]]) -> list[Run]:
    """All runs of a study in an order in which each follows the one that it begins from.

    Args:
        study: of `study_file.load_study`.
        overrides: pairs of a field's dotted name and its value as text, of all arms, stronger than
            the file's common ones and weaker than an arm's own.

    Raises:
        UserError: a field of an arm is wrong, or not all see the same classes.
    """
    runs = []
    find = _finding_once()
    for seed in study.seeds:
        configs = {arm: _config(study, arm, seed, overrides, find) for arm in study.arms}
        first, second = _trunks(configs, seed)
        runs += [*first.values(), *second.values()]
        for arm, config in configs.items():
            parent = second.get(_second_key(config)) or _trunk_of_supervised(config, first)
            runs.append(
                Run(
                    title=f"seed {seed}, {arm}",
                    folder=Path(f"seed_{seed}") / arm,
                    config=config,
                    until=sum(config.steps.values()),
                    parent=parent,
                    seed=seed,
                    arm=arm,
                    is_trunk=False,
                )
            )
    _check_classes(runs)
    return runs


def _finding_once() -> Callable[[Any], tuple[ClassList, str]]:
    """`find_classes`, which reads the same masks no second time for another arm."""
    found: dict[str, tuple[ClassList, str]] = {}

    def find(data: Any) -> tuple[ClassList, str]:
        asked = data.to_json(sort_keys=True)
        if asked not in found:
            found[asked] = find_classes(data)
        return found[asked]

    return find


def _check_classes(runs: Sequence[Run]) -> None:
    """Refuses runs of different classes: their mean IoUs would tell nothing side by side."""
    one, *others = (run for run in runs if not run.is_trunk)
    first = one.config.data
    for run in others:
        own = run.config.data
        if (own.num_classes, own.class_names) != (first.num_classes, first.class_names):
            raise UserError(
                f"{run.title} has the {own.num_classes} classes {', '.join(own.class_names)}, "
                f"{one.title} the {first.num_classes} classes {', '.join(first.class_names)}: "
                "say in classes.txt or data.class_names which there are."
            )


def choose(runs: Sequence[Run], seeds: Sequence[int], arms: Sequence[str]) -> list[Run]:
    """The runs of some seeds and arms, and those that they begin from, in the same order.

    Args:
        runs: of `make_runs`: of all arms, so that what two arms share is one run whichever of them
            is asked for first.
        seeds: of the study.
        arms: names.

    Raises:
        UserError: there is no such arm.
    """
    known = list(dict.fromkeys(run.arm for run in runs if not run.is_trunk))
    for name in arms:
        if name not in known:
            raise UserError(
                f"--arms: the study has no arm {name!r}; it has {', '.join(known)}."
                + did_you_mean(name, known)
            )
    needed = set()
    for run in runs:
        if run.seed in seeds and run.arm in arms and not run.is_trunk:
            link: Run | None = run
            while link is not None:
                needed.add(link.folder)
                link = link.parent
    return [run for run in runs if run.folder in needed]


def without_arms(runs: Sequence[Run]) -> list[Run]:
    """What arms share alone: to the end of the ELN's phase, after which detectors are compared.

    Raises:
        UserError: no run is one after which they are.
    """
    if not any(run.trains_eln for run in runs):
        raise UserError(
            "--detectors_only: none of these arms has an ELN's phase and a third one after it "
            "(steps.eln and steps.semi_supervised above 0), so no detectors would be compared."
        )
    return [run for run in runs if run.is_trunk]


def _config(
    study: Study,
    arm: str,
    seed: int,
    overrides: Sequence[tuple[str, str]],
    find: Callable[[Any], tuple[ClassList, str]],
) -> Any:
    texts = {n: str(v) for n, v in (*study.overrides.items(), *overrides)}
    texts |= {n: str(v) for n, v in study.arms[arm].items()}
    if "seed" in texts:
        raise UserError(
            f"Arm {arm}: seed={texts['seed']} would make all seeds the same training; the study's "
            "seeds, or --seeds=S,S, say which there are."
        )
    texts["seed"] = str(seed)
    root = texts.get("data.root", "")
    filled = [(n, t.replace("{seed}", str(seed)).replace("{root}", root)) for n, t in texts.items()]
    try:
        config = configuration.load(study.config, filled)
        configuration.complete(config, find)
    except UserError as error:
        raise UserError(f"Arm {arm}: {error}") from error
    return config


def _trunks(configs: Mapping[str, Any], seed: int) -> tuple[dict[str, Run], dict[str, Run]]:
    """The runs of the first and of the second phase, by key."""
    first: dict[str, Run] = {}
    second: dict[str, Run] = {}
    # An ELN is best known by an arm that asks it.
    asking_first = sorted(configs, key=lambda arm: not asks_eln(configs[arm].method))
    for arm in asking_first:
        config = configs[arm]
        if not (config.steps.eln or config.steps.semi_supervised):
            continue
        steps = config.steps
        key = _first_key(config, steps.supervised)
        if key not in first:
            rest = {"eln": sum(steps.values()) - steps.supervised, "semi_supervised": 0}
            own = _without(config, _AFTER_FIRST_PHASE, rest)
            first[key] = _trunk("supervised", key, own, steps.supervised, None, seed, arm)
        if not (steps.eln and steps.semi_supervised):
            continue
        later = _second_key(config)
        if later not in second:
            own = _without(config, _THIRD_PHASE, {})
            until = steps.supervised + steps.eln
            second[later] = _trunk("eln", later, own, until, first[key], seed, arm)
    return first, second


def _trunk(
    name: str, key: str, config: Any, until: int, parent: Run | None, seed: int, arm: str
) -> Run:
    return Run(
        title=f"seed {seed}, {name} phase for {arm} and others",
        folder=Path(f"seed_{seed}") / "trunks" / f"{name}_{key}",
        config=config,
        until=until,
        parent=parent,
        seed=seed,
        arm=arm,
        is_trunk=True,
    )


def _trunk_of_supervised(config: Any, first: Mapping[str, Run]) -> Run | None:
    """A trunk of the first phase that a run of this phase alone, or without ELN, can go on from."""
    for trunk in first.values():
        same = _first_key(config, trunk.until) == _first_key(trunk.config, trunk.until)
        if same and trunk.until <= config.steps.supervised:
            return trunk
    return None


def _first_key(config: Any, until: int) -> str:
    # The learning rate follows the number of all steps, whatever their phases.
    steps = {"until": until, "total": sum(config.steps.values())}
    return _key(config, _AFTER_FIRST_PHASE, steps)


def _second_key(config: Any) -> str:
    return _key(config, _THIRD_PHASE, dict(config.steps.items()))


def _key(config: Any, free: tuple[str, ...], steps: Mapping[str, int]) -> str:
    """A short name for all that decides a trunk, the same in every process and order of arms.

    A field at its default is not part of it: so a field that is new keeps the folders of old runs.
    """
    defaults = default_config()
    read = {
        name: get(config, name)
        for name in field_names(config)
        if not name.startswith((*free, "steps."))
        and not is_free(name)
        and get(config, name) != get(defaults, name)
    }
    # The lists may move with the data, but which it is changes what is trained.
    read |= {name: Path(get(config, name)).name for name in ("data.partition", "data.val_list")}
    text = json.dumps([read, steps], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _without(config: Any, free: tuple[str, ...], steps: Mapping[str, int]) -> Any:
    """The configuration with the defaults in the fields that a trunk does not read."""
    own, defaults = copy.deepcopy(config), default_config()
    for name in field_names(config):
        if name.startswith(free):
            *parents, last = name.split(".")
            block: Any = own
            for parent in parents:
                block = block[parent]
            block[last] = get(defaults, name)
    own.batch_size_unlabeled = own.batch_size_labeled  # the default need not divide over devices
    for name, count in steps.items():
        own.steps[name] = count
    own.eval.every = sum(own.steps.values())
    return own
