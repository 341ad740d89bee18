"""Measurements of speed and memory, a module a subject; `python -m eln_jax.benchmark` runs them."""
