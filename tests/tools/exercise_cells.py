"""Stubs and solutions of exercises, taken from the cells of the notebooks themselves."""

import json
import math
from pathlib import Path

import torch

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def cell(notebook: str, name: str, **context) -> dict:
    """Run one cell of a notebook, without its check, and return its names."""
    cells = json.loads((NOTEBOOKS / notebook).read_text())["cells"]
    source = next("".join(c["source"]) for c in cells if c["id"] == name)
    names = {"torch": torch, "math": math, **context}
    exec("\n".join(line for line in source.splitlines() if "exercises." not in line), names)
    return names
