"""From a configuration to the parts of a run: data, networks, optimisers and compiled steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from eln_jax.data import pipeline
from eln_jax.errors import UserError
from eln_jax.method import state as method_state
from eln_jax.method import steps
from eln_jax.method.views import ViewSettings
from eln_jax.models.layers import resize_bilinear
from eln_jax.models.pretrained import load_pretrained
from eln_jax.models.segmenter import Networks, init_networks
from eln_jax.training import optim, sharding
from eln_jax.training.bookkeeping import phases
from eln_jax.training.inputs import Inputs, make_inputs
from eln_jax.training.networks import (
    EvaluationNetworks,
    input_statistics,
    make_evaluation_networks,
    make_networks,
)

# With fewer validation images than this, one of them moves the scores by many points.
_FEW = 4
_FEW_WORDS = " So few validation images tell little: take the scores with caution."


@dataclass(frozen=True)
class Parts:
    """What the training loop drives.

    Attributes:
        config: the configuration.
        mesh: the devices.
        data: what it reads.
        networks: the modules.
        steps: phase name -> compiled `(state, batch, key) -> (state, metrics)`.
        initial_state: makes the state of step 0, with pretrained weights.
        abstract_state: its shapes, types and shardings, without making it.
        start_teacher: compiled `state.start_teacher`.
        reset_student: compiled `state.reset_student`.
        evaluation: student or teacher, alone and with the ELN, as evaluation runs them.
    """

    config: Any
    mesh: Mesh
    data: Inputs
    networks: Networks
    steps: Mapping[str, Callable]
    initial_state: Callable[[], method_state.TrainState]
    abstract_state: Callable[[], method_state.TrainState]
    start_teacher: Callable[[method_state.TrainState], method_state.TrainState]
    reset_student: Callable[[method_state.TrainState], method_state.TrainState]
    evaluation: EvaluationNetworks

    @property
    def description(self) -> str:
        """One sentence on what the run does, for the screen."""
        config, partition = self.config, self.data.partition
        steps = ", ".join(f"{p.end - p.start} {p.name}" for p in phases(config.steps))
        kinds = sorted({device.device_kind for device in self.mesh.devices.flat})
        return (
            f"Training {config.model.encoder} on {len(partition.labeled)} labelled and "
            f"{len(partition.unlabeled)} unlabelled images, validating on {len(partition.val)}; "
            f"steps: {steps}; devices: {self.mesh.size} x {', '.join(kinds)}."
            + ("" if partition.unlabeled else " The labelled images serve as unlabelled too.")
            + (_FEW_WORDS if len(partition.val) < _FEW else "")
        )


def build(config: Any, mesh: Mesh | None = None) -> Parts:
    """Builds the parts of a run; nothing is trained or written.

    Args:
        config: fields as in `eln_jax.defaults`, already checked.
        mesh: devices; all if None.

    Raises:
        UserError: data or pretrained weights cannot be had, or a batch does not divide.
    """
    if jax.process_count() > 1:
        raise UserError("Training over several processes is not supported yet; start one.")
    mesh = sharding.make_mesh() if mesh is None else mesh
    sharding.check_batch_size("batch_size_labeled", config.batch_size_labeled, mesh)
    sharding.check_batch_size("batch_size_unlabeled", config.batch_size_unlabeled, mesh)
    data = make_inputs(config)
    networks = make_networks(config)
    make_state, args = _state_and_step_arguments(config, data, networks)
    replicated, split = sharding.replicated(mesh), sharding.split(mesh)

    def compiled(step):
        return jax.jit(
            partial(step, args=args),
            donate_argnums=0,
            in_shardings=(replicated, split, replicated),
            out_shardings=(replicated, replicated),
        )

    return Parts(
        config=config,
        mesh=mesh,
        data=data,
        networks=networks,
        steps={
            "supervised": compiled(steps.supervised_step),
            "eln": compiled(steps.eln_step),
            "semi_supervised": compiled(steps.semi_supervised_step),
        },
        initial_state=lambda: jax.device_put(make_state(pretrained=True), replicated),
        abstract_state=lambda: jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
            jax.eval_shape(partial(make_state, pretrained=False)),
        ),
        start_teacher=jax.jit(method_state.start_teacher, donate_argnums=0),
        reset_student=jax.jit(method_state.reset_student, donate_argnums=0),
        evaluation=make_evaluation_networks(config, networks),
    )


def _state_and_step_arguments(config, data, networks):
    """The function that makes the first state, and what every step needs."""
    # Drawn on the host, so that a seed means the same weights on every accelerator; this generator
    # compiles in a fifth of the time of JAX's default one.
    host = _host_device()
    with jax.default_device(host):
        init_key, pretrained_key = jax.random.split(jax.random.key(config.seed, impl="rbg"))
    crop_size = tuple(config.crop_size)
    model, optim_config = config.model, config.optim

    def make_variables(key):
        return init_networks(networks, key, crop_size, model.num_aux_decoders)

    shapes = jax.eval_shape(make_variables, init_key)
    tx = optim.make_optimizers(
        shapes["params"],
        name=optim_config.name,
        encoder_factor=optim_config.encoder_factor,
        weight_decay=optim_config.weight_decay,
        momentum=optim_config.momentum,
        clip_norm=optim_config.clip_norm,
        train_norm=config.method.train_norm,
    )

    @jax.default_device(host)
    def make_state(pretrained: bool) -> method_state.TrainState:
        variables = make_variables(init_key)
        if pretrained:
            variables = load_pretrained(
                variables,
                encoder=model.encoder,
                eln_encoder=model.eln_encoder,
                source=model.pretrained,
                eln_source=model.eln_pretrained,
                eln_stem=model.eln_stem,
                key=pretrained_key,
            )
        params, batch_stats = variables["params"], variables["batch_stats"]
        return method_state.TrainState(
            step=jnp.int32(0),
            params=params,
            batch_stats=batch_stats,
            teacher=jax.tree.map(
                jnp.copy, {"params": params["student"], "batch_stats": batch_stats["student"]}
            ),
            opt_state={name: tx[name].init(params[name]) for name in params},
        )

    args = steps.StepArguments(
        networks=networks,
        resize=resize_bilinear,
        tx=tx,
        learning_rate=optim.make_schedule(
            name=optim_config.schedule,
            learning_rate=optim_config.learning_rate,
            total_steps=sum(config.steps.values()),
            power=optim_config.power,
            warmup_steps=optim_config.warmup_steps,
        ),
        settings=_method_settings(config, data),
        views=ViewSettings(**dict(config.views.items())),
    )
    return make_state, args


def _host_device() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise UserError(
            "JAX was told to use no CPU, but weights are drawn there: add it to JAX_PLATFORMS, as "
            "in JAX_PLATFORMS=cuda,cpu."
        ) from error


def _method_settings(config: Any, data: Inputs) -> steps.MethodSettings:
    statistics = input_statistics(config)
    weights = None
    if config.method.class_balance == "sqrt":
        share = pipeline.class_frequencies(data.train, data.partition.labeled)
        weights = _sqrt_weights(share)
    block = dict(config.method.items())
    handled = ("class_balance", "student_reset_every", "train_norm")
    return steps.MethodSettings(
        num_classes=config.data.num_classes,
        ignore_label=config.data.ignore_label,
        input_mean=statistics[0],
        input_std=statistics[1],
        eln_input_mean=statistics[2],
        eln_input_std=statistics[3],
        class_weights=weights,
        **{name: value for name, value in block.items() if name not in handled},
    )


def _sqrt_weights(share: np.ndarray) -> tuple[float, ...]:
    """Inverse square roots of the classes' shares, of mean 1 over the classes that occur."""
    occurs = share > 0
    weights = np.where(occurs, 1.0 / np.sqrt(np.where(occurs, share, 1.0)), 0.0)
    return tuple(float(w) for w in weights / weights[occurs].mean())
