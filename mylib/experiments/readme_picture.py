"""The picture of the README: ``python -m mylib.experiments.readme_picture`` (seconds)."""

from __future__ import annotations

import io

import matplotlib.image
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from .. import plots, tokenizer
from ..files import data_path
from ..gazette import Gazette
from ..leaks import certificate
from ..masks import causal_head, dense
from ..model import GPT
from ..objectives import NextToken, Rows
from ..tokenizer import BOS, EOS

STORY = (
    "On Thursday Maud came from Marlow by the late ferry. "
    "She has nine boxes of brave yellow candles."
)


def strip() -> Figure:
    gazette = Gazette.load("sunday")
    model = GPT.load(data_path("checkpoints/causal.safetensors"))
    ids = torch.tensor([BOS, *tokenizer.encode(STORY), EOS])
    with torch.no_grad():
        log_p = model(ids[None, :-1])[0].log_softmax(-1)
    mine = -log_p.gather(-1, ids[1:, None])[:, 0]
    true = gazette.surprise(ids[None])[0, 1:]
    title = "A causal model is surprised where a perfect reader is"
    return plots.surprise_strip(tokenizer.words(ids[1:]), true, mine, title=title)


def trellis() -> Figure:
    words = ["<bos>", "Every", "effort", "moves", "you", "forward"]
    ids = torch.tensor([BOS, *tokenizer.encode("Every effort moves you forward")])
    mask = causal_head(4)
    leak = certificate(NextToken(mask), Rows.padded([ids]), layers=2).leaks[0]
    asked = words[leak.source]
    inside = dense(mask, len(words) - 1)[0, 0]
    return plots.leak_trellis(words[:-1], inside, 2, leak.path, asked)


def main() -> None:
    pictures = []
    for figure in (strip(), trellis()):
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110)
        plt.close(figure)
        buffer.seek(0)
        pictures.append(matplotlib.image.imread(buffer))
    heights = [picture.shape[0] / picture.shape[1] * 8 for picture in pictures]
    fig, axes = plt.subplots(
        2, 1, figsize=(8, sum(heights)), gridspec_kw={"height_ratios": heights}
    )
    for ax, picture in zip(axes, pictures, strict=True):
        ax.imshow(picture)
        ax.axis("off")
    fig.subplots_adjust(0, 0, 1, 1, 0, 0)
    fig.savefig(data_path("results") / "readme.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
