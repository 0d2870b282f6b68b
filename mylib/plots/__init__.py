"""Figures of the course, each drawn by one function, with one palette.

Three recur: the regime card, the surprise strip and the leak trellis. Blue is the model, black the
oracle (always an outline or a diamond), the floor a dashed line with its name on it, vermilion
what should not be there; words in the colour of a line take `ink`. Matrices: rows are queries or
outputs, columns keys or inputs.

Every function draws a new figure and returns it; end the cell with ``plt.show()``.
"""

from .cards import poster, regime_card, regime_row
from .matrices import audit_picture, influence_picture, influence_row, mask_picture, matrix
from .palette import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LINES,
    MARKS,
    ORANGE,
    PINK,
    SKY,
    VERMILION,
    YELLOW,
    ink,
)
from .text import hole_bars, leak_trellis, loss_on_floor, next_word_bars, surprise_strip

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "LINES",
    "MARKS",
    "ORANGE",
    "PINK",
    "SKY",
    "VERMILION",
    "YELLOW",
    "audit_picture",
    "hole_bars",
    "influence_picture",
    "influence_row",
    "ink",
    "leak_trellis",
    "loss_on_floor",
    "mask_picture",
    "matrix",
    "next_word_bars",
    "poster",
    "regime_card",
    "regime_row",
    "surprise_strip",
]
