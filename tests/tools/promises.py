"""What the shipped checkpoints promise, and whether a rebuilt one keeps it: tests/rebuild.csv.

    python -m mylib pretrain causal mlm prefix dual --out build/rebuilt
    python tests/tools/promises.py build/rebuilt

Thousands of steps make other weights of one other rounding, so a checkpoint that is trained anew
elsewhere is judged by what it can do: the promises below, which `tests/test_shipped.py` asks of the
shipped ones. `difference`: the largest between two weights; 0 means the same bytes.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

from mylib.commands.pretrain import RECIPES
from mylib.files import data_path, read_safetensors
from mylib.model import FORMAT

TABLE = Path(__file__).resolve().parents[1] / "rebuild.csv"
COLUMNS = ("checkpoint", "what", "bound", "shipped", "rebuilt", "kept", "overlap", "difference")
FLOOR = 22.1845  # the Gazette's entropy, nats per document: test_gazette.py

# checkpoint -> number in its JSON -> "most" or "least", and that. An excess above its interval's
# zero is asked of all of them: below the floor there is only a leak.
PROMISES = {
    "causal": {"excess": ("most", 0.1), "valid": ("least", 0.95)},
    "mlm": {"excess": ("most", 0.05)},
    "prefix": {
        "excess": ("most", 0.01),
        "valid_story": ("least", 0.95),
        "valid_headline": ("least", 0.95),
    },
    "dual": {
        "forward_excess": ("most", 0.01 * FLOOR),
        "backward_excess": ("most", 0.01 * FLOOR),
        "valid_forward": ("least", 0.95),
        "valid_backward": ("least", 0.95),
    },
    "mixed": {
        "forward_excess": ("most", 0.2),
        "backward_excess": ("most", 0.2),
        "fill_in_excess": ("most", 0.2),
        "spoiled_found": ("least", 0.97),
        "false_flags": ("most", 0.001),
    },
    "denoiser": {
        "precision": ("least", 0.95),
        "recall": ("least", 0.95),
        "mask_at_mask": ("most", 1e-4),
    },
    "diffusion": {"gap": ("most", 0.05 * FLOOR), "valid_confidence": ("least", 0.95)},
}


def kept(facts: dict, name: str) -> dict[str, bool]:
    """Which promises of checkpoint ``name`` hold for these measured facts."""
    said = {}
    for what, (side, bound) in PROMISES[name].items():
        holds = facts[what] <= bound if side == "most" else facts[what] >= bound
        if "excess" in what or what == "gap":
            holds = holds and facts[f"{what}_interval"][0] > 0
        said[what] = holds
    return said


def overlap(a: dict, b: dict, what: str) -> str:
    """Do the 95 % intervals of a number overlap? Empty if it has none."""
    if f"{what}_interval" not in a or f"{what}_interval" not in b:
        return ""
    (low, high), (other_low, other_high) = a[f"{what}_interval"], b[f"{what}_interval"]
    return "yes" if low <= other_high and other_low <= high else "no"


def difference(one: Path, other: Path) -> float:
    """The largest difference of two checkpoints' weights; 0 only if all their bytes are equal."""
    if one.read_bytes() == other.read_bytes():
        return 0.0
    (a, _), (b, _) = (read_safetensors(path, FORMAT) for path in (one, other))
    if a.keys() != b.keys():
        raise ValueError(f"{one} and {other} are not of one shape")
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a)


def compare(name: str, folder: Path) -> list[dict]:
    """The lines of the table for one rebuilt checkpoint."""
    shipped = data_path(f"checkpoints/{name}.safetensors")
    rebuilt = folder / f"{name}.safetensors"
    old, new = (json.loads(path.with_suffix(".json").read_text()) for path in (shipped, rebuilt))
    most = f"{difference(shipped, rebuilt):.2g}"
    return [
        {
            "checkpoint": name,
            "what": what,
            "bound": f"at {PROMISES[name][what][0]} {PROMISES[name][what][1]:.4g}",
            "shipped": old[what],
            "rebuilt": new[what],
            "kept": "yes" if holds else "no",
            "overlap": overlap(old, new, what),
            "difference": most,
        }
        for what, holds in kept(new, name).items()
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where `mylib pretrain --out` wrote")
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    rows = list(csv.DictReader(options.table.open())) if options.table.exists() else []
    for name in RECIPES:
        if (options.folder / f"{name}.safetensors").exists():
            rows = [row for row in rows if row["checkpoint"] != name]
            rows += compare(name, options.folder)
    rows.sort(key=lambda row: list(RECIPES).index(row["checkpoint"]))
    with options.table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    broken = [f"{row['checkpoint']} {row['what']}" for row in rows if row["kept"] == "no"]
    print(f"{len(rows)} promises, not kept: {', '.join(broken) or '-'}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
