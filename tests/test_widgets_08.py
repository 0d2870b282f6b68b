"""The flips of chapter 08 without a browser: what leaks, by which way, and what controls change."""

import itertools
import re

import pytest
import torch

from mylib.leaks import certificate
from mylib.masks import anticausal, causal, dense, flipped
from mylib.objectives import PreviousToken, Rows
from mylib.widgets import chapter08

WORDS = ["Every", "effort", "moves", "you", "forward", "<eos>"]


@pytest.mark.parametrize("time", [5, 6, 9])
@pytest.mark.parametrize("queries", [True, False])
@pytest.mark.parametrize("keys", [True, False])
def test_what_leaks_is_what_the_leak_check_finds(time, queries, keys):
    visible = chapter08.seen(time, queries, keys)
    rows = Rows.padded([torch.arange(6, 7 + time)])
    for layers in (1, 2):
        objective = PreviousToken(mask=flipped(causal, time, queries, keys))
        found = {leak.output for leak in certificate(objective, rows, layers).leaks}
        assert set(chapter08.leaking(visible, layers)) == found


def test_flips_by_hand():
    assert torch.equal(chapter08.seen(5, True, True), dense(anticausal, 5)[0, 0])
    one = chapter08.seen(6, True, False)
    assert chapter08.leaking(one, 1) == [1, 2, 3]
    assert chapter08.leaking(one, 2) == [1, 2, 3, 4, 5]
    assert chapter08.leaking(chapter08.seen(6, False, True), 1) == [3, 4, 5]
    assert chapter08.leaking(chapter08.seen(6, True, True), 2) == []


@pytest.mark.parametrize("flips", [(True, False), (False, True)])
def test_paths_lead_over_the_reflection(flips):
    for time in (6, 7, 12):
        visible = chapter08.seen(time, *flips)
        for output in range(time):
            path = chapter08.mirror_path(visible, 2, output)
            if output == 0:
                assert path is None
                continue
            assert path[0] == output and path[-1] == output - 1
            assert all(a == b or visible[a, b] for a, b in itertools.pairwise(path))
            if not visible[output, output - 1]:
                # of the output, or of the word it must name
                assert path[1] == time - 1 - (output if flips[0] else output - 1)


def test_moving_a_control_changes_the_picture():
    widget = chapter08.FlipTable(WORDS)
    seen = {widget.picture.value}
    for name, value in {"columns": True, "layers": "2 layers", "output": 2, "rows": False}.items():
        widget.controls[name].value = value
        assert widget.picture.value not in seen, f"{name} changes nothing"
        seen.add(widget.picture.value)
    assert repr(widget) == "FlipTable: run the cell to move rows, columns, layers, output"


def test_the_picture_carries_words():
    widget = chapter08.FlipTable(WORDS)
    alts = re.findall(r'<img alt="([^"]+)"', widget.picture.value)
    assert len(alts) == 2 and "flipped rows" in alts[0]
    assert "3 of 6 targets leak in 1 layer" in alts[1]
    widget.controls["layers"].value = "2 layers"
    assert "5 of 6 targets leak in 2 layers" in widget.picture.value
    assert "4 &lt;- 1 &lt;- 3" in widget.picture.value
