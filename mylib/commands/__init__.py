"""Thin commands behind ``python -m mylib``; each module has ``add`` (its options) and ``run``."""
