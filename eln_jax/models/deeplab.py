"""DeepLabV3+ decoder (Chen et al. 2018) with a class head and an embedding head."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from eln_jax.models.layers import (
    BatchNorm,
    Conv,
    Dropout,
    Features,
    Groups,
    call,
    fan_in_normal,
    fan_in_uniform,
    resize_bilinear,
    resize_bilinear_centred,
)
from eln_jax.models.upsampled import UpsampledConv


class Prediction(NamedTuple):
    """What a decoder returns, at stride 4.

    Attributes:
        logits: float32 [batch, height/4, width/4, num_classes].
        embeddings: float32 [batch, height/4, width/4, embedding_size].
    """

    logits: jax.Array
    embeddings: jax.Array


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: the same map at several reaches, and its mean.

    Attributes:
        width: channels of every branch and of the result.
        rates: dilation of the 3x3 branches.
        dropout_rate: on the result.
        pool_norm: batch norm in the branch of the mean.
        dtype: of the arithmetic.
        param_dtype: of the weights.
    """

    width: int
    rates: tuple[int, ...]
    dropout_rate: float
    pool_norm: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, dropout: bool = False, groups: Groups = None
    ) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height, width, self.width]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, self.width, kernel_init=fan_in_normal, **types)

        def norm_relu(y, name):
            return nn.relu(BatchNorm(name=name, **types)(y, train=train, groups=groups))

        branches = [norm_relu(conv(name="conv1")(x), "bn1")]
        for i, rate in enumerate(self.rates, start=2):
            y = conv(kernel_size=3, dilation=rate, name=f"conv{i}")(x)
            branches.append(norm_relu(y, f"bn{i}"))
        pooled = x.astype(jnp.float32).mean((1, 2), keepdims=True)
        pooled = conv(name="pool_conv")(pooled)
        pooled = norm_relu(pooled, "pool_bn") if self.pool_norm else nn.relu(pooled)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = norm_relu(conv(name="project_conv")(jnp.concatenate(branches, -1)), "project_bn")
        return Dropout(self.dropout_rate)(x, active=dropout)


class Fusion(nn.Module):
    """Joins upsampled ASPP features with an encoder's low features, at the latter's size.

    Attributes:
        width: channels of the result.
        low_width: channels that the low features are reduced to.
        dropout_rates: after the first and the second 3x3 convolution.
        dtype: of the arithmetic.
        param_dtype: of the weights.
    """

    width: int
    low_width: int
    dropout_rates: tuple[float, float]
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        low: jax.Array,
        *,
        train: bool = False,
        dropout: bool = False,
        groups: Groups = None,
    ) -> jax.Array:
        """Joins [batch, ...] maps of two sizes into [batch, height/4, width/4, self.width]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=fan_in_normal, **types)

        def norm_relu(y, name):
            return nn.relu(BatchNorm(name=name, **types)(y, train=train, groups=groups))

        low = norm_relu(conv(self.low_width, name="low_conv")(low), "low_bn")
        x = UpsampledConv(self.width, name="conv1", **types)(x, low)
        x = Dropout(self.dropout_rates[0])(norm_relu(x, "bn1"), active=dropout)
        x = norm_relu(conv(self.width, 3, name="conv2")(x), "bn2")
        x = Dropout(self.dropout_rates[1])(x, active=dropout)
        return conv(self.width, use_bias=True, name="conv3")(x)


class Head(nn.Module):
    """Two 1x1 convolutions with bias and a ReLU between.

    Attributes:
        width: channels between the two.
        features: output channels.
        dtype: of the arithmetic; the output is float32.
        param_dtype: of the weights.
    """

    width: int
    features: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to float32 [batch, height, width, features]."""
        conv = partial(
            Conv,
            use_bias=True,
            kernel_init=fan_in_uniform,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        x = nn.relu(conv(self.width, name="conv1")(x))
        return conv(self.features, name="conv2")(x).astype(jnp.float32)


class Decoder(nn.Module):
    """From an encoder's features to class logits and embeddings; main and auxiliary alike.

    Attributes:
        num_classes: classes, without void.
        width: channels of ASPP, fusion and heads.
        low_width: channels that the low features are reduced to.
        embedding_size: channels of the embeddings.
        rates: dilation of ASPP's branches.
        dropout: rates after ASPP, first and second 3x3 convolution.
        rematerialize: keep little for the backward pass and compute the rest anew.
        dtype: of the arithmetic; predictions are float32.
        param_dtype: of the weights.
    """

    num_classes: int
    width: int = 256
    low_width: int = 48
    embedding_size: int = 128
    rates: tuple[int, ...] = (6, 12, 18)
    dropout: tuple[float, float, float] = (0.1, 0.5, 0.1)
    rematerialize: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Features,
        *,
        train: bool = False,
        dropout: bool = False,
        groups: Groups = None,
    ) -> Prediction:
        """Decodes an encoder's features.

        Args:
            features: `high` and `low` maps.
            train: batch norm uses, and records, batch statistics.
            dropout: dropout is active (random numbers "dropout").
            groups: sizes of the parts of the batch with statistics of their own.

        Returns:
            Logits and embeddings at stride 4.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        again = self.rematerialize and train
        mode = {"train": train, "dropout": dropout, "groups": groups, "rematerialize": again}
        aspp = Aspp(self.width, self.rates, self.dropout[0], name="aspp", **types)
        x = call(aspp, features.high, **mode)
        fusion = Fusion(self.width, self.low_width, self.dropout[1:], name="fusion", **types)
        x = call(fusion, x, features.low, **mode)
        seg_head = Head(self.width, self.num_classes, name="seg_head", **types)
        proj_head = Head(self.width, self.embedding_size, name="proj_head", **types)
        return Prediction(
            logits=call(seg_head, x, rematerialize=again),
            embeddings=call(proj_head, x, rematerialize=again),
        )


class PlainDecoder(nn.Module):
    """The decoder of Chen et al. (2018) as PyTorch codes with torchvision's names have it.

    One 3x3 convolution and no hidden layer before the classes. Attributes, and what `__call__`
    takes and gives, as of `Decoder`; the third rate of `dropout` has no place here.
    """

    num_classes: int
    width: int = 256
    low_width: int = 48
    embedding_size: int = 128
    rates: tuple[int, ...] = (6, 12, 18)
    dropout: tuple[float, float, float] = (0.1, 0.5, 0.1)
    rematerialize: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Features,
        *,
        train: bool = False,
        dropout: bool = False,
        groups: Groups = None,
    ) -> Prediction:
        """Decodes an encoder's features, as `Decoder` does."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=fan_in_normal, **types)

        def norm_relu(y, name):
            return nn.relu(BatchNorm(name=name, **types)(y, train=train, groups=groups))

        aspp = Aspp(self.width, self.rates, self.dropout[0], pool_norm=True, name="aspp", **types)
        again = self.rematerialize and train
        mode = {"train": train, "dropout": dropout, "groups": groups, "rematerialize": again}
        x = call(aspp, features.high, **mode)
        low = norm_relu(conv(self.low_width, name="low_conv")(features.low), "low_bn")
        x = jnp.concatenate([low, resize_bilinear_centred(x, low.shape[1:3])], -1)
        x = norm_relu(conv(self.width, 3, name="conv")(x), "bn")
        x = Dropout(self.dropout[1])(x, active=dropout)
        logits = conv(self.num_classes, use_bias=True, name="classes")(x)
        proj_head = Head(self.width, self.embedding_size, name="proj_head", **types)
        return Prediction(
            logits=logits.astype(jnp.float32),
            embeddings=call(proj_head, x, rematerialize=again),
        )


# By the name that the configuration has for them; how the logits of each are enlarged.
DECODERS = {"official": Decoder, "torchvision": PlainDecoder}
UPSAMPLING = {"official": resize_bilinear, "torchvision": resize_bilinear_centred}
