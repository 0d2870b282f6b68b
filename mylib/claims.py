"""The claims of a chapter: each must hold, and its control must fail."""

from __future__ import annotations

import textwrap


class Claims:
    """Collects claims as the chapter proves them, and prints the closing table."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def prove(self, claim: str, holds: bool, control: str, control_fails: bool) -> None:
        """Record a claim. Raises `AssertionError` if it does not hold or its control does not fail.

        A control is the same measurement where the claim must be false; a claim whose control
        cannot fail says nothing.
        """
        if not holds:
            raise AssertionError(f"the claim does not hold: {claim}")
        if not control_fails:
            raise AssertionError(f"the control does not fail: {control}")
        self.rows.append((claim, control))
        print(f"Claim {len(self.rows)} holds; its control fails.")

    def table(self, width: int = 46) -> None:
        """Print claim, verdict and control, one row each."""
        print(f"   {'claim':<{width}}  holds  control: must fail, and does")
        for number, (claim, control) in enumerate(self.rows, start=1):
            left, right = (textwrap.wrap(text, width) for text in (claim, control))
            for n in range(max(len(left), len(right))):
                first = left[n] if n < len(left) else ""
                second = right[n] if n < len(right) else ""
                mark, holds = (f"{number}.", "yes") if n == 0 else ("", "")
                print(f"{mark:<3}{first:<{width}}  {holds:<5}  {second}".rstrip())
