"""Figures: drawn without error, and holding the numbers they were given."""

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from mylib import plots
from mylib.leaks import leak_path
from mylib.masks import causal, causal_head, dense


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


WORDS = ["Every", "effort", "moves", "you", "forward"]


def test_mask_and_influence_pictures_show_the_matrix():
    for figure in (
        plots.mask_picture(causal, 5, WORDS),
        plots.influence_picture(dense(causal, 5)[0, 0], words=WORDS),
    ):
        shown = figure.axes[0].images[0].get_array()
        assert (torch.tensor(shown.tolist()) > 0).equal(dense(causal, 5)[0, 0])


def test_what_differs_from_the_expectation_is_hatched():
    seen = torch.ones(4, 4, dtype=torch.bool)
    figure = plots.influence_picture(seen, dense(causal, 4)[0, 0])
    assert sum(patch.get_hatch() is not None for patch in figure.axes[0].patches) == 6


def test_a_wrong_pair_is_hatched_in_its_row_and_column():
    seen, wanted = torch.zeros(3, 3).bool(), torch.zeros(3, 3).bool()
    wanted[2, 0] = True  # output 2, input 0
    (axes,) = plots.influence_picture(seen, wanted).axes
    (box,) = [patch for patch in axes.patches if patch.get_hatch()]
    assert (box.get_x(), box.get_y()) == (-0.5, 1.5)


def test_strip_prints_both_totals_and_cuts_infinite_bars():
    oracle = torch.tensor([0.0, 1.5, 2.0, 0.0, 0.5])
    model = torch.tensor([0.1, 1.4, torch.inf, 0.0, 0.5])
    figure = plots.surprise_strip(WORDS, oracle, model)
    assert "oracle (outline): 4.0 nats" in figure.axes[0].get_title(loc="left")
    assert any(text.get_text() == "inf" for text in figure.axes[0].texts)
    with pytest.raises(ValueError, match="5 words for 4"):
        plots.surprise_strip(WORDS, oracle[:4])


def test_strip_of_a_certain_text_and_without_a_model():
    plots.surprise_strip(WORDS, torch.zeros(5))


def test_loss_on_floor_draws_floor_and_curves_and_needs_neither_floor():
    curves = {"a": ([1, 2, 3], [3.0, 2.0, 1.0]), "b": ([1, 2], [2.0, 1.5])}
    figure = plots.loss_on_floor(curves, {"floor": 0.8})
    assert [0.8, 0.8] in [list(line.get_ydata()) for line in figure.axes[0].lines]
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert "a" in labels and any("0.80" in label for label in labels)
    assert len(plots.loss_on_floor(curves, {}).axes[0].lines) == 2


def test_two_floors_keep_their_names_apart():
    figure = plots.loss_on_floor({"a": ([1, 2], [3.0, 1.0])}, {"old": 1.1, "new": 1.0})
    sides = {t.get_text(): t.get_va() for t in figure.axes[0].texts}
    assert sides["old 1.10"] == "bottom" and sides["new 1.00"] == "top"


def test_each_hole_has_its_bars_and_diamonds():
    true, mine = torch.tensor([0.5, 0.5]), torch.tensor([0.4, 0.6])
    one = (WORDS[:1], torch.tensor([1.0]), torch.tensor([0.9]))
    figure = plots.hole_bars({"a": (WORDS[:2], true, mine), "b": one})
    first, second = figure.axes
    assert [round(bar.get_width(), 3) for bar in first.patches] == [0.4, 0.6]
    assert list(first.lines[0].get_xdata()) == [0.5, 0.5] and len(second.patches) == 1
    low, high = first.get_ylim()
    assert low > high and first.get_ylim() == second.get_ylim()  # the first word on top


def test_a_row_of_regimes_shows_each_mask():
    cards = [{"name": m.name, "mask": m, "lines": ["says: x"]} for m in (causal, causal_head(2))]
    figure = plots.regime_row(cards)
    for ax, card in zip(figure.axes, cards, strict=True):
        shown = torch.tensor(ax.images[0].get_array().tolist()) > 0
        assert shown.equal(dense(card["mask"], 5)[0, 0])
        assert ax.get_title() == card["name"]


def test_a_poster_shows_every_mask_in_order_and_frames_one_s_own():
    masks = [causal, causal_head(2), causal_head(3), causal]
    cards = [{"name": f"{i}", "mask": m, "lines": ["x", "y"]} for i, m in enumerate(masks)]
    cards[2]["mine"] = True
    figure = plots.poster(cards, columns=3)
    assert len(figure.axes) == 6 and [ax.axison for ax in figure.axes] == [True] * 4 + [False] * 2
    for ax, card in zip(figure.axes, cards, strict=False):
        shown = torch.tensor(ax.images[0].get_array().tolist()) > 0
        assert shown.equal(dense(card["mask"], 5)[0, 0])
        assert ax.get_title(loc="left").endswith(card["name"])
        assert [text.get_text() for text in ax.texts] == ["x\ny"]
    widths = [ax.spines["left"].get_linewidth() for ax in figure.axes[:4]]
    assert widths[2] > max(widths[:2]) and widths[3] == widths[0]
    assert [ax.get_title(loc="left")[0] == ">" for ax in figure.axes[:4]] == [
        i == 2 for i in range(4)
    ]
    with pytest.raises(ValueError, match="at least one card"):
        plots.poster([])


def test_trellis_draws_the_path_of_a_leak():
    visible = dense(causal_head(3), 5)[0, 0]
    path = leak_path(visible, 2, 0, 1)
    figure = plots.leak_trellis(WORDS, visible, 2, path, "effort", title="two layers")
    assert figure.axes[0].get_title(loc="left") == "two layers"
    drawn = [list(line.get_xdata()) for line in figure.axes[0].lines]
    assert list(path) in drawn


def test_regime_card_and_next_word_bars():
    figure = plots.regime_card(
        "Causal LM", shown="all words so far", mask=causal, says="the next word", length="nobody"
    )
    assert any(text.get_text() == "Causal LM" for text in figure.axes[0].texts)
    plots.next_word_bars(["a", "b"], torch.tensor([0.7, 0.3]), torch.tensor([0.6, 0.4]))
    plots.next_word_bars(["a", "b"], torch.tensor([0.7, 0.3]))
