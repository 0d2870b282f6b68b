"""``python -m mylib doctor``: will this installation run the course?"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from .checks import AGAIN, CHECKS, one_line

READY = "Your installation is ready for the course."
MISSING = "Something is missing: run `python -m mylib doctor`"


class Finding(NamedTuple):
    """One line of the report; ``status`` is "ok", "WARN" or "FAIL"."""

    status: str
    name: str
    message: str


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check Python, packages, data files, Jupyter and the machine: one line each, with what "
        "to do where something is wrong. Exit code: 0 ready (warnings allowed), 1 not ready."
    )


def run(options: argparse.Namespace) -> int:
    findings = doctor()
    for status, name, message in findings:
        print(f"{status:<5}{name:<12}{message}")
    failed = sum(status == "FAIL" for status, _, _ in findings)
    print(
        f"Not ready: do what each FAIL says ({failed}), then run this again." if failed else READY
    )
    return 1 if failed else 0


def doctor() -> list[Finding]:
    """All checks, in the order in which their causes should be mended."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            found += [Finding(status, name, message) for status, message in check()]
        except Exception as error:  # a broken installation breaks in its own way
            found.append(Finding("FAIL", name, f"{one_line(error)}; {AGAIN}"))
    return found


def verdict() -> str:
    """One line that is the same on every machine where nothing fails.

    >>> verdict()
    'Your installation is ready for the course.'
    """
    return MISSING if any(status == "FAIL" for status, _, _ in doctor()) else READY
