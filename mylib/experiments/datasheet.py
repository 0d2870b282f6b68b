"""The Gazette's table in ``data/README.md``: ``python -m mylib.experiments.datasheet``."""

from __future__ import annotations

from ..gazette import Gazette


def facts(edition: str) -> list[str]:
    """The column of one edition."""
    gazette = Gazette.load(edition)
    lengths = [len(template.cells) for template in gazette.grammar.templates]
    return [
        gazette.grammar.edition,
        str(len(lengths)),
        str(len(gazette.grammar.units())),
        f"{min(lengths)}, {gazette.mean_length:.1f}, {max(lengths)}",
        f"{gazette.entropy:.2f}",
        f"{gazette.length_entropy:.2f}",
    ]


def table() -> str:
    names = [
        "",
        "flat templates",
        "words",
        "words of a document: shortest, mean, longest",
        "entropy, nats per document (exact)",
        "entropy of the length, nats",
    ]
    lines = [
        f"| {' | '.join(row)} |" for row in zip(names, facts("small"), facts("sunday"), strict=True)
    ]
    return "\n".join([lines[0].replace("|  |", "| |"), "|---|---|---|", *lines[1:]])


if __name__ == "__main__":
    print(table())
