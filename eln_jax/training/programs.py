"""From a configuration to what runs on the devices: the first state and the compiled steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from eln_jax.errors import UserError
from eln_jax.method import state as method_state
from eln_jax.method import steps
from eln_jax.method.views import ViewSettings
from eln_jax.models.deeplab import UPSAMPLING
from eln_jax.models.pretrained import load_pretrained
from eln_jax.models.segmenter import Networks, init_networks
from eln_jax.training import optim, sharding
from eln_jax.training.gate_fitting import unfitted_gate
from eln_jax.training.networks import input_statistics


@dataclass(frozen=True)
class Programs:
    """What runs on the devices.

    Attributes:
        mesh: the devices.
        steps: phase name -> compiled `(state, batch, key) -> (state, metrics)`.
        initial_state: makes the state of step 0, with pretrained weights.
        abstract_state: its shapes, types and shardings, without making it.
        start_teacher: compiled `state.start_teacher`.
        reset_student: compiled `state.reset_student`.
    """

    mesh: Mesh
    steps: Mapping[str, Callable]
    initial_state: Callable[[], method_state.TrainState]
    abstract_state: Callable[[], method_state.TrainState]
    start_teacher: Callable[[method_state.TrainState], method_state.TrainState]
    reset_student: Callable[[method_state.TrainState], method_state.TrainState]


def make_programs(
    config: Any, networks: Networks, mesh: Mesh, class_weights: tuple[float, ...] | None = None
) -> Programs:
    """Makes the programs of a run; nothing is compiled yet, and no data is read.

    Args:
        config: fields as in `eln_jax.defaults`, already checked.
        networks: the modules.
        mesh: the devices.
        class_weights: of the supervised loss, one a class; None: all 1.
    """
    make_state, args = _state_and_step_arguments(config, networks, class_weights)
    replicated, split = sharding.replicated(mesh), sharding.split(mesh)
    shapes = jax.eval_shape(partial(make_state, pretrained=False))
    placed = jax.tree.map(lambda _: replicated, shapes)
    if config.shard_state:
        placed = sharding.state_shardings(shapes, mesh)

    def compiled(step):
        return jax.jit(
            partial(step, args=args),
            donate_argnums=0,
            in_shardings=(placed, split, replicated),
            out_shardings=(placed, replicated),
        )

    return Programs(
        mesh=mesh,
        steps={
            "supervised": compiled(steps.supervised_step),
            "eln": compiled(steps.eln_step),
            "semi_supervised": compiled(steps.semi_supervised_step),
        },
        initial_state=lambda: sharding.put_state(make_state(pretrained=True), placed),
        abstract_state=lambda: jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, placed
        ),
        start_teacher=jax.jit(method_state.start_teacher, donate_argnums=0, out_shardings=placed),
        reset_student=jax.jit(method_state.reset_student, donate_argnums=0, out_shardings=placed),
    )


def _state_and_step_arguments(config, networks, class_weights):
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
        frozen_eln_encoder=config.model.eln_frozen_encoder,
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
            gate=unfitted_gate(config),
        )

    args = steps.StepArguments(
        networks=networks,
        resize=UPSAMPLING[model.architecture],
        tx=tx,
        learning_rate=optim.make_schedule(
            name=optim_config.schedule,
            learning_rate=optim_config.learning_rate,
            total_steps=sum(config.steps.values()),
            power=optim_config.power,
            warmup_steps=optim_config.warmup_steps,
        ),
        settings=_method_settings(config, class_weights),
        views=ViewSettings(**dict(config.views.items())),
        loss_limit=config.divergence.loss_limit or float("inf"),
        skip_bad_steps=config.divergence.max_skipped_steps > 0,
        accumulation=config.accumulation,
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


def _method_settings(config: Any, class_weights: tuple[float, ...] | None) -> steps.MethodSettings:
    statistics = input_statistics(config)
    block = dict(config.method.items())
    handled = ("class_balance", "gate_fit_every", "student_reset_every", "train_norm")
    return steps.MethodSettings(
        num_classes=config.data.num_classes,
        ignore_label=config.data.ignore_label,
        input_mean=statistics[0],
        input_std=statistics[1],
        eln_input_mean=statistics[2],
        eln_input_std=statistics[3],
        class_weights=class_weights,
        eln_second_opinion=config.model.eln_second_opinion,
        **{name: value for name, value in block.items() if name not in handled},
    )
