"""What all widgets are: named controls above a picture that a plain function draws.

The picture is an `HTML` whose ``value`` is replaced, never an `Output`: that way it passes strict
nbval, works by keyboard, carries words for those who do not see it (`Image` cannot), and the
drawing function can be tested without a browser.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure


class Panel(widgets.VBox):
    """Controls over a picture; ``draw(state)`` -> HTML (`picture` makes it), at every change.

    ``controls``: widgets by name; ``state`` is the dictionary of their values.
    """

    def __init__(self, controls: dict[str, Any], draw: Callable[[dict], str]) -> None:
        self.controls, self._draw = controls, draw
        self.picture = widgets.HTML(value=draw(self.state))
        for control in controls.values():
            control.observe(self._refresh, names="value")
        super().__init__([*controls.values(), self.picture])

    @property
    def state(self) -> dict[str, Any]:
        return {name: control.value for name, control in self.controls.items()}

    def _refresh(self, _change: Any) -> None:
        self.picture.value = self._draw(self.state)

    def __repr__(self) -> str:
        # What a notebook stores of a widget; the default would quote the picture's bytes.
        return f"{type(self).__name__}: run the cell to move {', '.join(self.controls)}"


def buttons(name: str, options: Iterable[str]) -> widgets.ToggleButtons:
    """One of several, all in view; ``name`` stands before them."""
    return widgets.ToggleButtons(options=list(options), description=name)


def picture(figure: Figure, alt: str) -> str:
    """A figure as an HTML image with its words; it is closed, so that it is not shown twice."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    # Its width is that of the page, not of the file: the picture never jumps.
    style = "max-width:min(700px, 100%)"
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}" style="{style}">'
