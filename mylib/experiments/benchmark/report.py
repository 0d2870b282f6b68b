"""What is made of a run: which aims are met, and the table in the README."""

from __future__ import annotations

from collections.abc import Callable

from .peers import PACKAGES

OURS = ("ours", "ours again", "ours, padded", "ours, no cache", "ours, by substitution")
LINEAR = 2.2  # twice the tokens may cost a tenth more than twice the time


def aims(parts: dict) -> list[dict]:
    """Each aim whose part was measured: what was aimed at, what was measured, and whether met."""
    rules: dict[str, Callable] = {
        "training step": training_aim,
        "useful tokens": tokens_aim,
        "time to floor": floor_aim,
        "large vocabulary": vocabulary_aim,
        "generation": generation_aim,
    }
    return [rule(parts[part]) for part, rule in rules.items() if part in parts]


def aim(text: str, measured: str, met: bool) -> dict:
    return {"aim": text, "measured": measured, "met": met}


def training_aim(runs: list[dict]) -> dict:
    """Slower is what is slower by more than our own code is than itself (its lower quartile)."""
    text = "a training step not slower than the fastest peer's, beyond the run's own spread"
    found = []
    for run in runs:
        fastest = run["results"][first(run["results"])]["times_as_fast"]["median"]
        spread = run["results"]["ours again"]["times_as_fast"]
        found.append((fastest, spread["low"], spread["high"]))
    ratios, lows, highs = zip(*found, strict=True)
    measured = (
        f"{min(ratios):.2f} to {max(ratios):.2f} times as fast; "
        f"ours against itself {min(lows):.2f} to {max(highs):.2f}"
    )
    return aim(text, measured, all(r >= min(1.0, low) for r, low, _ in found))


def tokens_aim(part: dict) -> dict:
    text = "useful tokens a second, unequal lengths: at least 1.5 × the fastest padded peer's"
    (name,) = [source for source in part if source.startswith("lengths")]
    return at_least(text, part[name]["results"], 1.5)


def vocabulary_aim(part: dict) -> dict:
    text = "a step of masked words at 50,257 words: at least 1.5 × as fast as with all logits"
    return at_least(text, {"all logits": part["masked words"]["results"]["all logits"]}, 1.5)


def at_least(text: str, results: dict, wanted: float) -> dict:
    found = results[first(results)]["times_as_fast"]
    return aim(text, spread(found, 2), found["median"] >= wanted)


def floor_aim(part: dict) -> dict:
    text = "1.05 × the floor in at most half the time of GPT2LMHeadModel's recipe (hope: a third)"
    found = part["times_as_fast"].get("transformers")
    if found is None:
        return aim(text, "not reached", False)
    return aim(text, f"{1 / found:.2f} of its time", found >= 2)


def generation_aim(part: dict) -> dict:
    text = "writing with a cache takes time linear in the length"
    found = part["doubling"]["ours"]
    measured = ", ".join(f"{x:.2f}" for x in found) + " × the time for twice the tokens"
    return aim(text, measured, max(found) <= LINEAR)


def first(results: dict, package: str = "", ending: str = "") -> str | None:
    """The fastest contestant that is not ours (of a package; with this ending to its name)."""
    names = [
        name
        for name in results
        if name not in OURS and name.startswith(package) and name.endswith(ending)
    ]
    if not ending:
        names = [name for name in names if not name.endswith("no cache")]
    return min(names, key=lambda n: results[n]["milliseconds"]["median"], default=None)


def table(facts: dict) -> str:
    """The tables of the README, in Markdown, from the file of a run."""
    head = ["median (quartiles)", "mylib", *PACKAGES, "times as fast¹"]
    lines = [head, ["---"] * len(head)]
    lines += [row for part, rows in ROWS.items() if part in facts["parts"] for row in rows(facts)]
    told = [["aim", "measured", "met"], ["---"] * 3]
    told += [[a["aim"], a["measured"], "yes" if a["met"] else "**no**"] for a in facts["aims"]]
    drawn = ["\n".join(f"| {' | '.join(row)} |" for row in rows) for rows in (lines, told)]
    return f"{drawn[0]}\n\n{note(facts)}\n\n{drawn[1]}"


def note(facts: dict) -> str:
    """What the numbers are to be read with."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["peers"].items())
    missing = f" Absent: {', '.join(facts['absent'])}." if facts["absent"] else ""
    peak = facts["parts"].get("matmul peak", {}).get("gigaflops", "?")
    return (
        "¹ the fastest other's time over ours, median and quartiles of the rounds (a number "
        "alone: one time over the other); for masked words and diffusion the other is our own "
        "code with all logits. Of a package the faster of its ways. "
        f"One thread of {facts['processor']}, whose best float32 matrix product makes "
        f"{peak} GFLOP/s; torch {facts['torch']}, {versions}.{missing} `{facts['command']}`"
    )


def spread(found: dict | None, digits: int | None = None) -> str:
    """Median and quartiles, to about three figures or as many decimals as said."""
    if found is None:
        return "–"
    numbers = [found[name] for name in ("median", "low", "high")]
    if digits is None:
        digits = 0 if numbers[0] >= 100 else 1 if numbers[0] >= 10 else 2
    middle, low, high = (f"{number:,.{digits}f}" for number in numbers)
    return f"{middle} ({low}–{high})"


def row(label: str, results: dict, unit: str = "milliseconds", ending: str = "") -> list[str]:
    """Ours, the fastest of each package, and how many times as fast ours is."""
    best = [first(results, package, ending) for package in PACKAGES]
    ratio = "–"
    if fastest := first(results, "", ending):
        ratio = spread(results[fastest]["times_as_fast"], 2)
    if fastest and ending:  # the rounds' ratios are to ours with a cache
        medians = (results[name]["milliseconds"]["median"] for name in (fastest, "ours" + ending))
        ratio = f"{next(medians) / next(medians):.2f}"
    cells = [spread(results[name][unit]) if name else "–" for name in best]
    return [label, spread(results["ours" + ending][unit]), *cells, ratio]


def training_rows(facts: dict) -> list[list[str]]:
    found = []
    for run in facts["parts"]["training step"]:
        s = run["shape"]
        size = f"{s['n_layer']}×{s['n_embd']}, {s['rows']}×{s['tokens']} tokens"
        found.append(row(f"{run['step']}; {size}: ms", run["results"]))
    if "matmul peak" in facts["parts"]:
        found.append(share_of_peak(facts))
    return found


def share_of_peak(facts: dict) -> list[str]:
    """The first step's operations a second over those of the best matrix product."""
    run, peak = facts["parts"]["training step"][0], facts["parts"]["matmul peak"]["gigaflops"]
    best = ["ours", *(first(run["results"], package) for package in PACKAGES)]
    cells = ["–"] * len(best)
    for place, name in enumerate(best):
        if name:
            milliseconds = run["results"][name]["milliseconds"]["median"]
            cells[place] = f"{run['flops'] / (1e6 * milliseconds * peak):.0%}"
    return ["the first of these, as a share of the matmul peak", *cells, ""]


def token_rows(facts: dict) -> list[list[str]]:
    part = facts["parts"]["useful tokens"]
    return [
        row(f"useful tokens a second, {name}", found["results"], "tokens_per_second")
        for name, found in part.items()
    ]


def vocabulary_rows(facts: dict) -> list[list[str]]:
    found, size = [], facts["settings"]["large vocabulary"]["sizes"]["vocab_size"]
    for task, part in facts["parts"]["large vocabulary"].items():
        results = part["results"]
        ours = f"{spread(results['ours']['milliseconds'])}; all logits "
        ours += spread(results["all logits"]["milliseconds"])
        bert = results.get("transformers")
        theirs = f"BERT {spread(bert['milliseconds'])}" if bert else "–"
        label = f"{task} at {size:,} words, {part['asked_share']:.0%} asked: ms"
        ratio = spread(results["all logits"]["times_as_fast"], 2)
        found.append([label, ours, theirs, "–", "–", ratio])
    return found


def generation_rows(facts: dict) -> list[list[str]]:
    length, results = list(facts["parts"]["generation"]["results"].items())[-1]
    label = f"writing {length} tokens, one text: ms"
    return [row(label, results), row(f"{label}, no cache", results, ending=", no cache")]


def probe_rows(facts: dict) -> list[list[str]]:
    tokens = facts["settings"]["influence probe"]["tokens"]
    ours = facts["parts"]["influence probe"]["results"]
    label = f"influence of {tokens} tokens on {tokens} outputs (on each network): ms"
    return [[*row(label, ours)[:-1], ""]]


def memory_rows(facts: dict) -> list[list[str]]:
    found = []
    for kind, each in facts["parts"]["peak memory"].items():
        ours = spread(each["ours"], 0)
        if "all logits" in each:
            ours += f"; all logits {spread(each['all logits'], 0)}"
        cells = []
        for package in PACKAGES:
            names = [name for name in each if name.startswith(package)]
            best = min(names, key=lambda n: each[n]["median"], default=None)
            cells.append(spread(each.get(best), 0))
        found.append([f"memory that a step needs, {kind}: MiB", ours, *cells, ""])
    return found


def import_rows(facts: dict) -> list[list[str]]:
    part = facts["parts"]["imports"]
    cells = [spread(part[p]["milliseconds"]) if p in part else "–" for p in PACKAGES]
    ours = f"{spread(part['import mylib']['milliseconds'])}; with its GPT "
    ours += spread(part["mylib.model.GPT"]["milliseconds"])
    return [["import: ms", ours, *cells, ""]]


def floor_rows(facts: dict) -> list[list[str]]:
    part = facts["parts"]["time to floor"]
    best = part["best"]
    names = ["ours", *(first_of(best, package) for package in PACKAGES)]
    cells = ["–"] * len(names)
    for place, name in enumerate(names):
        if best.get(name):
            cells[place] = f"{best[name]['seconds']:.0f} ({best[name]['steps']} steps)"
    ratios = [r for n, r in part["times_as_fast"].items() if r and n not in OURS]
    ratio = f"{min(ratios):.2f}" if ratios else "–"
    return [["seconds to 1.05 × the floor, small edition", *cells, ratio]]


def first_of(best: dict, package: str) -> str | None:
    return next((name for name in best if name.startswith(package)), None)


ROWS: dict[str, Callable[[dict], list[list[str]]]] = {
    "training step": training_rows,
    "useful tokens": token_rows,
    "time to floor": floor_rows,
    "large vocabulary": vocabulary_rows,
    "generation": generation_rows,
    "influence probe": probe_rows,
    "peak memory": memory_rows,
    "imports": import_rows,
}
