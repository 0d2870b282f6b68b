"""What a sampler leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Trace:
    """What was written, and how.

    ids        int (B, T)          the text
    frames     tuple of (B, T')    the canvas after every pass
    commits    int (B, T)          the pass (1, 2, ...) that wrote the word standing there;
                                   0: it was given, -1: it still is [MASK]
    revisions  int (B, T)          how often a word written there was hidden again
    row_passes int (B,)            passes that each row needed
    """

    ids: Tensor
    frames: tuple[Tensor, ...]
    commits: Tensor
    revisions: Tensor
    row_passes: Tensor

    @property
    def passes(self) -> int:
        """Forward passes of the model over the batch."""
        return len(self.frames)
