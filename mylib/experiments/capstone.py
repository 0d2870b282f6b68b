"""The score that chapter 12's capstone has to beat.

    python -m mylib.experiments.capstone          (about two minutes on one core)

The reporter writes the Evening edition from left to right, with plain draws and no ending to heed:
next token, the capstone's network and steps, ``seed`` of its weights and training. ``endings``:
the seed of the pages that are written, each four times (`mylib.exercises.capstone.burnt`), and of
the draws; the seed of the judged endings is not among them. ``valid``: share of pages that the
grammar can write, with its interval over pages. The score is the best of these, rounded up.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..exercises.capstone import DEV, burnt, score, trained
from ..exercises.writers import Regime, compose
from ..files import data_path
from ..objectives import NextToken
from .results import Table, origin, rounded


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--endings", type=int, nargs="+", default=[DEV, DEV + 1, DEV + 2])
    parser.add_argument("--out", type=Path, default=data_path("results") / "capstone.csv")
    args = parser.parse_args(argv)
    values = ("valid", "valid_low", "valid_high", "distinct", "kept")
    table = Table(args.out, ("seed", "endings"), values, {}, origin("capstone", argv))
    reporter = Regime("the reporter", NextToken(), "forward")
    for seed in args.seeds:
        for endings in args.endings:
            if table.has(seed=seed, endings=endings):
                continue
            pages = burnt(endings)
            found = score(pages, compose(reporter, trained(NextToken(), seed), pages, endings))
            valid = rounded(found.quality.valid)
            table.add(
                seed=seed,
                endings=endings,
                valid=valid["mean"],
                valid_low=valid["low"],
                valid_high=valid["high"],
                distinct=round(found.quality.distinct, 4),
                kept=round(found.kept, 4),
            )


if __name__ == "__main__":
    main()
