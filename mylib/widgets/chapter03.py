"""Chapter 03: a conversion, a model, a batch; who sees whom in its first layer."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import plots, zoo
from ..masks import bidirectional, dense, sliding_window
from ..mixers import layer_influence
from .panel import Panel, buttons, picture

MODELS = ("llama", "gpt2", "qwen3", "mistral")
BATCHES = ("one row", "right padding", "left padding")
TIME, PADS = 7, 2


def measure(convert: Callable, name: str, backend: str, batch: str) -> torch.Tensor | str:
    """Influence (T, T) in the first layer of a fresh converted model, or how it stopped."""
    model = zoo.tiny(name, backend)
    ids = torch.arange(3, 3 + TIME)
    try:
        convert(model)
        if batch == "one row":
            seen = layer_influence(model, ids[None])
        else:
            mask = torch.stack([valid(batch), torch.ones(TIME, dtype=torch.bool)]).long()
            seen = layer_influence(model, torch.stack([ids, ids.flip(0)]), attention_mask=mask)
    except Exception as error:  # a conversion may fail in any way; which one is the point
        return f"stops with {type(error).__name__}"
    return next(iter(seen.values()))


def valid(batch: str) -> torch.Tensor:
    """Which tokens of the first row are real: bool (T,)."""
    real = torch.ones(TIME, dtype=torch.bool)
    if batch == "right padding":
        real[-PADS:] = False
    elif batch == "left padding":
        real[:PADS] = False
    return real


def judge(seen: torch.Tensor, name: str, batch: str) -> tuple[str, torch.Tensor]:
    """The verdict in words, and the wrong pairs (T, T) of real words."""
    mask = sliding_window(zoo.WINDOW, zoo.WINDOW) if name == "mistral" else bidirectional
    real = valid(batch)
    wanted = dense(mask, TIME)[0, 0] & real[None, :]
    wrong = (seen != wanted) & real[:, None]
    if not wrong.any():
        return "right", wrong
    if (seen & wrong)[:, ~real].any():
        return "pads are seen", wrong
    if not (seen & real[:, None]).triu(1).any():
        return "causal", wrong
    return "not what it should be", wrong


class ConversionExplorer(Panel):
    """Choose a conversion, a model, its attention backend and a batch.

    ``conversions``: functions that convert a model of transformers in place, by name.
    """

    def __init__(self, conversions: dict[str, Callable]) -> None:
        def draw(state: dict) -> str:
            name, batch = state["model"], state["batch"]
            seen = measure(conversions[state["conversion"]], name, state["backend"], batch)
            what = f"{state['conversion']}; {name}, {state['backend']}, {batch}"
            if isinstance(seen, str):
                return f"<p>{what}: <b>{seen}</b></p>"
            verdict, wrong = judge(seen, name, batch)
            names = [str(i) if real else "P" for i, real in enumerate(valid(batch))]
            title = f"{what}\n{verdict}; wrong pairs: {int(wrong.sum())}"
            figure = plots.matrix(
                seen, names, names, title=title, row_name="output", column_name="input", wrong=wrong
            )
            return picture(figure, f"Who sees whom in the first layer. {title}")

        super().__init__(
            {
                "conversion": buttons("conversion", conversions),
                "model": buttons("model", MODELS),
                "backend": buttons("attention", zoo.BACKENDS),
                "batch": buttons("batch", BATCHES),
            },
            draw,
        )
