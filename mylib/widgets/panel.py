"""What all widgets are: named controls above a picture that a plain function draws.

The picture is an `Image` or `HTML` whose ``value`` is replaced, never an `Output`: that way it
passes strict nbval, works by keyboard, and the drawing function can be tested without a browser.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure


class Panel(widgets.VBox):
    """Controls over a picture; ``draw(state)`` -> PNG bytes or HTML text, at every change.

    ``controls``: widgets by name; ``state`` is the dictionary of their values.
    """

    def __init__(self, controls: dict[str, Any], draw: Callable[[dict], bytes | str]) -> None:
        self.controls, self._draw = controls, draw
        first = draw(self.state)
        if isinstance(first, bytes):
            # Width in the page, not of the file: the picture never jumps.
            self.picture = widgets.Image(value=first, format="png", layout={"max_width": "700px"})
        else:
            self.picture = widgets.HTML(value=first)
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


def png(figure: Figure) -> bytes:
    """A figure as PNG; it is closed, so that the notebook does not show it twice."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    return buffer.getvalue()
