"""Semi-supervised semantic segmentation with an Error Localization Network, in JAX."""

__version__ = "0.1.0"
