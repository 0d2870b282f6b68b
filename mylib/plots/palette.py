"""One palette: Okabe and Ito's colours, told apart by readers with any colour vision.

On white a line needs a contrast of 3, a word one of 4.5 (WCAG 2.1, 1.4.11 and 1.4.3). Orange is
darker than theirs for the first; sky and yellow are for areas with a neighbour or an edge. `ink`
makes the colour of a line fit for its name.
"""

from __future__ import annotations

BLACK, ORANGE, SKY, GREEN = "#000000", "#C48700", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#707070"
MARKS = ("o", "s", "^", "v", "P")


def contrast(one, other="white") -> float:
    """WCAG's contrast of two colours, 1 to 21. Source: WCAG 2.1, "relative luminance".

    >>> contrast("black"), round(contrast(BLUE), 1)
    (21.0, 5.2)
    """
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def ink(color, ratio: float = 4.5) -> str:
    """The colour, darkened until words in it have this contrast on white.

    >>> ink(BLUE) == BLUE.lower(), ink(ORANGE), contrast(ink(ORANGE)) >= 4.5
    (True, '#9f6d00', True)
    """
    from matplotlib.colors import to_hex, to_rgb

    share = 1.0
    while contrast(shade := to_hex([share * part for part in to_rgb(color)])) < ratio:
        share -= 0.005
    return shade


def on(cell) -> str:
    """Black or white, whichever reads better on a cell of this colour: a contrast of 4.5 or more.

    >>> on("yellow"), on("navy")
    ('black', 'white')
    """
    return max("black", "white", key=lambda word: contrast(word, cell))


def plain(ax) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="y", lw=0.4, alpha=0.5, zorder=0)


def _luminance(color) -> float:
    from matplotlib.colors import to_rgb

    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


LINES = (BLUE, ORANGE, GREEN, PINK, ink(SKY, 3))
