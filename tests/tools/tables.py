"""What the tests of the experiments share: a text that needs no download, and their tables."""

import csv
import json

VERSES = "The quality of mercy is not strained, it droppeth as the gentle rain from heaven\n" * 60


def read(path):
    """The rows of a results table and the facts beside it."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file)), json.loads(path.with_suffix(".json").read_text())
