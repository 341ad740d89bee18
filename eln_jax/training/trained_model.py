"""A trained model, ready for use: its weights, what runs them, and what its classes are."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eln_jax.data.labels import color_text, parse_color
from eln_jax.data.sources import check_names
from eln_jax.errors import UserError
from eln_jax.evaluation.inference import Predictor
from eln_jax.evaluation.maps import SINGLE_VIEW, Views
from eln_jax.evaluation.panels import make_palette
from eln_jax.models.variables import METADATA, load_variables
from eln_jax.training import sharding
from eln_jax.training.bookkeeping import eln_has_learned, phases
from eln_jax.training.gate_fitting import gate_calibration
from eln_jax.training.networks import make_evaluation_networks, make_networks
from eln_jax.training.weights import read_weights

# What the model.json of an export, and of a converted checkpoint, says it is.
EXPORT_KIND = "eln_jax export"
CONVERTED_KIND = "eln_jax conversion"


@dataclass(frozen=True)
class TrainedModel:
    """A network that segments, with the ELN beside it if one was trained.

    Attributes:
        config: of the training.
        name: "teacher" or "student".
        step: of the training; None: it was the authors' code that trained it.
        variables: {"network": ...}, and {"eln": ...} with an ELN.
        class_names: one a class.
        palette: uint8 [num_classes, 3], the classes' colours.
        gate: what the gate of the training was fitted to, of a run's teacher; else empty.
    """

    config: Any
    name: str
    step: int | None
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    palette: np.ndarray
    gate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_eln(self) -> bool:
        """Whether there is an ELN that has been trained."""
        return "eln" in self.variables

    @property
    def origin(self) -> str:
        """Which training it is of, and when: after "student of"."""
        return "a converted checkpoint" if self.step is None else f"step {self.step}"

    @property
    def description(self) -> str:
        """A few words on what it is, for the screen."""
        eln = f"ELN on {self.config.model.eln_encoder}" if self.has_eln else "no ELN"
        return (
            f"{self.name} of {self.origin}, {self.config.model.encoder}, "
            f"{len(self.class_names)} classes, {eln}"
        )

    def predictor(
        self,
        batch_size: int,
        *,
        views: Views = SINGLE_VIEW,
        warp: bool = False,
        doubt_labels: bool = False,
        with_gate: bool = False,
    ) -> Predictor:
        """Makes what predicts images of any size, on all devices of this process.

        Args:
            batch_size: images at a time; rounded up to a multiple of the number of devices.
            views: scales, mirror image and windows to average.
            warp: images are warped to the training's crop size, as the official code has it.
            doubt_labels: examples bring a label map to be doubted; the ELN is left out.
            with_gate: pixels are also scored as the gate does that was fitted in training, if any.
        """
        mesh = sharding.make_mesh(jax.local_devices())
        networks = make_evaluation_networks(self.config, make_networks(self.config))
        crop_size = tuple(self.config.crop_size)
        with_eln = self.has_eln and not doubt_labels
        variables, gate = jax.device_put(
            (self.variables, dict(self.gate)), sharding.replicated(mesh)
        )
        return Predictor(
            network=networks.network_with_eln if with_eln else networks.network,
            variables=variables,
            batch_size=sharding.round_up(batch_size, mesh),
            pad_offset=crop_size[0] % 8,  # 0 or 1, as the network's maps were in training
            fill=networks.padding_colour,
            warp_size=crop_size if warp else None,
            sharding=sharding.split(mesh),
            views=views,
            doubt_labels=doubt_labels,
            calibration=gate_calibration(self.config.method, gate) if with_gate else None,
        )


def open_model(
    folder: Path, config: Any, network: str = "", checkpoint: str = "last"
) -> TrainedModel:
    """Opens the model that a run has trained so far, or one that was exported or converted.

    Args:
        folder: the run's folder, or one that export or convert wrote.
        config: as the folder's `config.json` has it.
        network: "teacher", "student", or "" for the teacher if there is one.
        checkpoint: "last", "best" or a step's number; other folders have but one.

    Raises:
        UserError: there is no such checkpoint, or it has no such network yet.
    """
    if (folder / METADATA).is_file():
        if checkpoint != "last":
            raise UserError(f"{folder}: it holds one model, and no --checkpoint={checkpoint}.")
        return _open_written(folder, config, network)
    weights = read_weights(folder, checkpoint)
    begins = {phase.name: phase.start for phase in phases(config.steps)}
    has_teacher = weights.step > begins.get("semi_supervised", weights.step)
    if network == "teacher" and not has_teacher:
        raise UserError(
            f"{folder}: the checkpoint of step {weights.step} has no teacher; the semi-supervised "
            "phase begins later or never. Take --network=student."
        )
    name = network or ("teacher" if has_teacher else "student")
    trained = {"params": weights.params, "batch_stats": weights.batch_stats}
    variables = {"network": weights.teacher if name == "teacher" else _part(trained, "student")}
    if eln_has_learned(config, weights.step):
        variables["eln"] = _part(trained, "eln")
    model = _make_model(config, name, weights.step, variables)
    return replace(model, gate=weights.gate) if name == "teacher" else model


def _open_written(folder: Path, config: Any, network: str) -> TrainedModel:
    saved, metadata = load_variables(folder)
    if metadata.get("kind") not in (EXPORT_KIND, CONVERTED_KIND):
        raise UserError(
            f"{folder}: its model.json does not say which network the weights are; export or "
            "convert it again."
        )
    name = metadata["network"]
    if network not in ("", name):
        raise UserError(f"{folder}: it holds the {name} alone, there is no {network}.")
    variables = {"network": _part(saved, "student")}
    if metadata["has_eln"]:
        variables["eln"] = _part(saved, "eln")
    return _make_model(config, name, metadata["step"], variables)


def _part(variables: Mapping[str, Any], network: str) -> dict[str, Any]:
    """One network's params and batch_stats."""
    return {collection: variables[collection][network] for collection in ("params", "batch_stats")}


def _make_model(
    config: Any, name: str, step: int | None, variables: dict[str, Any]
) -> TrainedModel:
    return TrainedModel(
        config=config,
        name=name,
        step=step,
        variables=variables,
        class_names=check_names(config.data.num_classes, config.data.class_names),
        palette=class_palette(config.data),
    )


def class_palette(data: Any) -> np.ndarray:
    """The classes' colours, uint8 [num_classes, 3]: the data set's own, or ours."""
    if data.class_colors:
        return np.array([parse_color(text) for text in data.class_colors], np.uint8)
    return make_palette(data.num_classes)


def classes_json(model: TrainedModel) -> list[dict[str, Any]]:
    """The classes as plain values: id in masks, name, colour."""
    ids = model.config.data.class_ids or range(len(model.class_names))
    return [
        {"id": id_, "name": name, "color": color_text(color)}
        for id_, name, color in zip(ids, model.class_names, model.palette, strict=True)
    ]
