"""What an audit found: in words, as a drawing, and for a machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Report:
    """What `audit` found: ``ok``, every problem in words, and every matrix measured.

    ``cases``: by name ("whole model, one row", "h.0.attn, left padding"), bool (T, T), the input j
    moves the output i. ``wrong``: the pairs of real outputs that are not as they should be.
    ``notes``: what is worth knowing, although nobody sees what they must not.
    """

    expected: str
    cases: dict[str, Tensor] = field(default_factory=dict)
    wrong: dict[str, Tensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def first(self) -> str | None:
        """The first case with a wrong pair; a mixer rather than the whole model, if one has it."""
        wrong = [name for name, pairs in self.wrong.items() if pairs.any()]
        inner = [name for name in wrong if not name.startswith("whole model")]
        return next(iter(inner or wrong), None)

    @property
    def leaks(self) -> list[str]:
        """The problems in which too much is seen; who sees too little leaks nothing."""
        return [line for line in self.problems if " does not see " not in line]

    def pair(self, case: str) -> tuple[int, int] | None:
        """The first wrong pair (output, input): one that sees too much, if there is one."""
        wrong = self.wrong[case]
        pairs = (wrong & self.cases[case]).nonzero().tolist() or wrong.nonzero().tolist()
        return tuple(pairs[0]) if pairs else None

    def drawing(self, case: str | None = None) -> str:
        """One case as text, by default the first wrong one: rows are outputs, columns inputs."""
        case = self.first if case is None else case
        if case is None:
            return ""
        seen, wrong = self.cases[case], self.wrong[case]
        signs = {(0, 0): ".", (1, 0): "#", (1, 1): "X", (0, 1): "o"}
        lines = [f"{case}: # sees, . does not, X sees and must not, o must see and does not"]
        for i in range(len(seen)):
            row = (signs[int(seen[i, j]), int(wrong[i, j])] for j in range(len(seen)))
            lines.append(f"{i:>4}  " + " ".join(row))
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The report for a machine: only text, numbers and lists."""
        cases = []
        for name, wrong in self.wrong.items():
            pairs = int(wrong.sum())
            cases.append({"case": name, "ok": not pairs, "wrong_pairs": pairs})
            if pairs:
                i, j = self.pair(name)
                first = {"output": i, "input": j, "sees": bool(self.cases[name][i, j])}
                cases[-1]["first"] = first
        return {
            "expected": self.expected,
            "ok": self.ok,
            "problems": self.problems,
            "notes": self.notes,
            "cases": cases,
        }

    def __str__(self) -> str:
        if self.ok:
            return f"{self.expected}: as expected in {len(self.cases)} checks"
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"NOT {self.expected}: {self.problems[0]}{more}"
