"""Chapter 06: the best span, when to say nothing, and what an exam can and cannot show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..heads import choose_threshold
from ..masks import bidirectional, causal, dense, reach
from ..pointing import Text, best_pointer
from ..tokenizer import pretokens
from . import check, expect

__all__ = ["check_best_span", "check_sets", "check_silence"]


# -- 6.1 ---------------------------------------------------------------------------------------


def _cases() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Start and end logits (T,) and the candidates: some by hand, some by chance."""
    text = torch.tensor([False, True, True, True, True, False])
    crossed = torch.tensor([0.0, 0, 1, 0, 4, 0]), torch.tensor([0.0, 0, 4, 0, 1, 0]), text
    greedy = torch.tensor([0.0, 0, 0, 5, 0, 0]), torch.tensor([0.0, 9, 0, 0, 0, 0]), text
    single = torch.tensor([0.0, 0, 6, 0, 0, 0]), torch.tensor([0.0, 0, 6, 0, 1, 0]), text
    beyond = torch.tensor([8.0, 0, 2, 0, 0, 9]), torch.tensor([8.0, 0, 0, 2, 0, 9]), text
    chance, found = torch.Generator().manual_seed(6), [beyond, crossed, greedy, single]
    for _ in range(40):
        start, end = (3 * torch.randn(9, generator=chance) for _ in range(2))
        candidates = torch.zeros(9, dtype=torch.bool)
        candidates[2:7] = True
        found.append((start, end, candidates))
    return found


def _best(start: Tensor, end: Tensor, candidates: Tensor) -> tuple[int, int, float]:
    start, end = (each.masked_fill(~candidates, -torch.inf).log_softmax(0) for each in (start, end))
    places = candidates.nonzero()[:, 0].tolist()
    pairs = [(i, j) for i in places for j in places if i <= j]
    i, j = max(pairs, key=lambda pair: float(start[pair[0]] + end[pair[1]]))
    return i, j, float(start[i] + end[j])


@check("6.1")
def check_best_span(best: Callable[[Tensor, Tensor, Tensor], tuple[int, int, float]]) -> None:
    """``best(start, end, candidates)``, all (T,) -> first, last, log p of the likeliest span."""
    for start, end, candidates in _cases():
        answer = best(start.clone(), end.clone(), candidates.clone())
        expect(
            isinstance(answer, Sequence) and len(answer) == 3,
            "return three things: first token, last token, log p",
        )
        first, last, log_p = int(answer[0]), int(answer[1]), float(answer[2])
        inside = torch.stack([start, end]).masked_fill(~candidates, -torch.inf)
        alone = inside.argmax(1).tolist()
        wanted = _best(start, end, candidates)
        if last < first:
            expect(
                [first, last] != alone,
                "the end stands before the start: you take the likeliest start and the likeliest "
                "end, each by itself. They are chosen together, among the pairs with start <= end",
            )
            expect(False, "the end stands before the start")
        expect(
            first >= 0 and last < len(start) and bool(candidates[first : last + 1].all()),
            "your span leaves the text: what is no candidate (the question, a pad) is no answer",
        )
        if (first, last) != wanted[:2]:
            expect(
                [first, last] != sorted(alone),
                "start and end were turned round to look right: the pair you return is not the "
                "likeliest that is allowed",
            )
            expect(
                first != alone[0],
                "you choose the start first and then an end behind it; another pair is likelier",
            )
            expect(
                wanted[0] != wanted[1],
                "an answer may be a single token: start == end is allowed",
            )
            expect(False, f"({first}, {last}) is not the likeliest span, {wanted[:2]} is")
        everywhere = float(start.log_softmax(0)[first] + end.log_softmax(0)[last])
        expect(
            abs(log_p - everywhere) > 1e-4 or abs(wanted[2] - everywhere) < 1e-4,
            "pads are in the softmax: the probabilities of the candidates must sum to 1, so mask "
            "the others before the softmax, not behind it",
        )
        expect(
            abs(log_p - float(start[first] + end[last])) > 1e-4,
            "you return the sum of the logits; log p wants a softmax over the candidates",
        )
        expect(abs(log_p - wanted[2]) < 1e-4, "log p is log p(start) + log p(end), in nats")


# -- 6.2 ---------------------------------------------------------------------------------------


def silence_questions(n: int, seed: int, shift: float = 2.0) -> list[dict]:
    """Questions over two to four windows; a margin above about ``shift`` speaks for an answer.

    ``span`` and ``null`` (W,): start + end logits of each window's best span and of its null;
    ``text``: the words of those spans; ``gold``: the answer, "" if there is none.
    """
    chance = torch.Generator().manual_seed(seed)
    found = []
    for number in range(n):
        size = 2 + number % 3
        margin = torch.randn(size, generator=chance) + shift - 2
        gold = ""
        if number % 5:
            there = int(torch.randint(size, (1,), generator=chance))
            margin[there] = shift + 1 + 1.5 * float(torch.randn(1, generator=chance))
            gold = f"answer {number}.{there}"
        level = 6 * torch.randn(size, generator=chance)  # differs by window, and means nothing
        text = [f"answer {number}.{window}" for window in range(size)]
        found.append({"span": level + margin, "null": level, "text": text, "gold": gold})
    return found


def _moved(questions: list[dict]) -> list[dict]:
    """The same questions, a constant added to all scores of a window."""
    found = []
    for number, each in enumerate(questions):
        added = torch.arange(len(each["span"])) * (9.0 if number % 2 else -9.0)
        found.append({**each, "span": each["span"] + added, "null": each["null"] + added})
    return found


def _score(answers: Sequence[str], questions: list[dict]) -> float:
    return sum(said == each["gold"] for said, each in zip(answers, questions, strict=True))


def _most(questions: list[dict]) -> float:
    """The greatest number of right answers that one threshold on margins can bring."""
    margins = torch.stack([(q["span"] - q["null"]).max() for q in questions])
    places = [int((q["span"] - q["null"]).argmax()) for q in questions]
    pairs = list(zip(questions, places, strict=True))
    answered = torch.tensor([float(q["text"][p] == q["gold"]) for q, p in pairs])
    silent = torch.tensor([float(not q["gold"]) for q in questions])
    threshold = choose_threshold(margins, answered, silent)
    return float(torch.where(margins > threshold, answered, silent).sum())


@check("6.2")
def check_silence(judge: Callable[[list[dict], list[dict]], list[str]]) -> None:
    """``judge(dev, test)`` -> an answer to each test question, "" for none."""
    dev, test = silence_questions(60, 1), silence_questions(40, 2)
    said = judge(dev, test)
    expect(
        isinstance(said, list) and len(said) == len(test) and all(type(a) is str for a in said),
        f'return a list of {len(test)} strings, one a test question, "" for no answer',
    )
    blind = [{**each, "gold": ""} for each in test]
    other = [{**each, "gold": each["text"][0]} for each in test]
    expect(
        said == judge(dev, blind) == judge(dev, other),
        "with other gold answers of the test set you answer differently: the threshold was chosen "
        "on the test set. Choose it on `dev`; `test` is for judging",
    )
    expect(
        said == judge(dev, _moved(test)) and said == judge(_moved(dev), test),
        "a constant added to all scores of one window changes your answers: scores of different "
        "windows are compared raw. Each window has its own softmax; compare span minus null",
    )
    expect(any(said), "you never answer")
    expect(
        judge(silence_questions(60, 1, shift=7.0), test) != said,
        "your threshold does not depend on `dev`: nothing was chosen on it",
    )
    expect(
        _score(judge(dev, dev), dev) == _most(dev),
        "on the development set another threshold is better: try one between each two margins, "
        "and count the questions that silence answers rightly",
    )


# -- 6.3 ---------------------------------------------------------------------------------------

Item = tuple[str, str, str]


def _text(item: Item, first: bool, weight: float) -> Text:
    asked, words = pretokens(" " + item[0]), pretokens(" " + item[1])
    before, after = (asked, []) if first else ([], asked)
    place = len(before) + words.index(" " + item[2])
    return Text((*before, *words, *after), (place, place), weight)


def ceiling(items: Sequence[Item], first: bool) -> float:
    """What a causal reader can answer at most, the question ``first`` or last."""
    return best_pointer([_text(item, first, 1 / len(items)) for item in items])


def _check_items(items: object, name: str) -> None:
    expect(
        isinstance(items, list) and len(items) >= 4 and len(items) % 2 == 0,
        f"{name}: a list of two pairs or more, so 4, 6, ... of (question, text, answer)",
    )
    for item in items:
        expect(
            isinstance(item, tuple) and len(item) == 3 and all(type(s) is str for s in item),
            f"{name}: each is (question, text, answer), three strings",
        )
        expect(
            pretokens(" " + item[1]).count(" " + item[2]) == 1,
            f"{name}: the answer {item[2]!r} must be one word that stands once in {item[1]!r}",
        )
    for one, other in zip(items[::2], items[1::2], strict=True):
        words = pretokens(" " + one[1]), pretokens(" " + other[1])
        expect(
            one[2] != other[2] and " " + other[2] in words[0] and " " + one[2] in words[1],
            f"{name}: in a pair both answers stand in both texts, and another one is right: "
            f"{one[2]!r} and {other[2]!r} do not. Otherwise the words alone give it away",
        )


@check("6.3")
def check_sets(answer: dict) -> None:
    """``answer``: the sets "level" and "order", the "gain" on each, and who "sees" the question."""
    keys = {"level", "order", "gain", "sees"}
    expect(isinstance(answer, dict) and set(answer) == keys, f"give a dictionary of {sorted(keys)}")
    if answer["level"] is Ellipsis or answer["order"] is Ellipsis:
        raise NotImplementedError
    for name in ("level", "order"):
        _check_items(answer[name], name)
    level = ceiling(answer["level"], first=True)
    expect(
        level > 0.999,
        f"level: opening gains here. A causal reader, the question in front, answers at most "
        f"{level:.0%} of it: what decides stands to the right of an answer",
    )
    for one, other in zip(answer["order"][::2], answer["order"][1::2], strict=True):
        expect(
            one[1] == other[1] and one[0] != other[0],
            "order: a pair asks two questions about one and the same text",
        )
    # With the question last it is a half: one text, one choice, two different answers.
    first = ceiling(answer["order"], first=True)
    expect(
        first > 0.999,
        f"order: even with the question in front a causal reader answers at most {first:.0%}. It "
        "sees the question then, but something else that decides stands to the right",
    )
    gain = answer["gain"]
    expect(isinstance(gain, dict) and set(gain) == {"level", "order"}, "gain has level and order")
    expect(
        gain["level"] == 0,
        "opening does not always add 5 to 10 points: where the ceiling of the causal reader is "
        "100 %, there is nothing to gain",
    )
    expect(
        gain["order"] == 0,
        "a causal reader does see the question, if it stands in front: with the question first it "
        "can answer all of this set, so opening gains nothing",
    )
    wanted = {}
    for name, mask in (("causal", causal), ("open", bidirectional)):
        seen = reach(dense(mask, 8)[0, 0], layers=2)
        wanted[name, "first"], wanted[name, "last"] = bool(seen[5, 1]), bool(seen[2, 6])
    sees = answer["sees"]
    expect(
        isinstance(sees, dict) and set(sees) == set(wanted),
        f"sees has the keys {sorted(wanted)}, each True or False",
    )
    expect(
        sees["causal", "first"] is True,
        "a causal reader never sees the question? It sees whatever stands to the left",
    )
    expect(
        sees["causal", "last"] is False,
        "through no number of layers does a word on the right reach a word on the left under a "
        "causal mask (chapter 02)",
    )
    expect(sees == wanted, "under an open mask every word reaches every word")
