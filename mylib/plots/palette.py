"""One palette: Okabe and Ito's colours, told apart by readers with any colour vision."""

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#999999"
LINES = (BLUE, ORANGE, GREEN, PINK, SKY)
MARKS = ("o", "s", "^", "v", "P")


def plain(ax) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="y", lw=0.4, alpha=0.5, zorder=0)
