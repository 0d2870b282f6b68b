"""Scripts for what is too long for a chapter; results go to ``data/results/``."""
