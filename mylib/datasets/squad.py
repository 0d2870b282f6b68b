"""Questions whose answers are spans of a text, in SQuAD's JSON (versions 1.1 and 2.0)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

SURROGATE = re.compile("[\ud800-\udfff]")
NAMES = {  # of JSON's kinds of values, for messages
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    float: "a number with a point",
    type(None): "null",
}


@dataclass(frozen=True)
class Answer:
    """A stretch of the context: its text, and where it begins, in characters (code points)."""

    text: str
    start: int


@dataclass(frozen=True)
class Example:
    """A question about a context, with the answers that people gave; none if it has no answer.

    >>> Example("1", "Who wrote?", "Ada wrote.", (Answer("Ada", 0),)).impossible
    False
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]

    @property
    def impossible(self) -> bool:
        """The context does not answer the question (SQuAD 2.0)."""
        return not self.answers


def read_squad(path: str | Path) -> list[Example]:
    """The questions of a file in the format of SQuAD 1.1 or 2.0, in its order.

    ``plausible_answers`` are left out. Raises `FileNotFoundError`, and `ValueError` with the file
    and the question's id (or its place) for: no JSON, a missing key, a value of another type, an
    empty context, an answer that does not stand at its offset, a question with answers marked
    impossible or one without that is not, an id seen before, and a file without questions.

    Sources: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text"
    (2016); Rajpurkar, Jia and Liang, "Know What You Don't Know: Unanswerable Questions for SQuAD"
    (2018).

    >>> import tempfile
    >>> asked = {"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "one.json"
    ...     data = [{"paragraphs": [{"context": "Ada wrote.", "qas": [asked]}]}]
    ...     _ = path.write_text(json.dumps({"data": data}))
    ...     read_squad(path)[0].answers
    (Answer(text='Ada', start=0),)
    """
    path = Path(path)
    try:
        examples = _articles(_json(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not examples:
        raise ValueError(f"no questions in {path}")
    return examples


def _json(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("not SQuAD's JSON: nested too deeply to be read") from None
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        raise ValueError(f"not JSON: {error}") from None


def _articles(whole: object) -> list[Example]:
    examples: list[Example] = []
    seen: set[str] = set()
    for a, article in enumerate(_get(whole, "data", list, "the file")):
        for p, paragraph in enumerate(_get(article, "paragraphs", list, f"data[{a}]")):
            place = f"data[{a}].paragraphs[{p}]"
            context = _get(paragraph, "context", str, place)
            if not context.strip():
                raise ValueError(f"{place}{_questions(paragraph)}: the context is empty")
            for q, asked in enumerate(_get(paragraph, "qas", list, place)):
                example = _example(asked, context, f"{place}.qas[{q}]")
                if example.id in seen:
                    raise ValueError(
                        f"question {example.id!r:.99} is there twice ({place}.qas[{q}])"
                    )
                seen.add(example.id)
                examples.append(example)
    return examples


def _questions(paragraph: dict) -> str:
    """The ids of a paragraph's questions, for a message about the paragraph."""
    asked = paragraph.get("qas")
    ids = [q.get("id") for q in asked if isinstance(q, dict)] if isinstance(asked, list) else []
    return f" (questions {', '.join(map(repr, ids[:3])):.200})" if ids else ""


def _example(asked: object, context: str, place: str) -> Example:
    id = _get(asked, "id", str, place)
    place = f"question {id!r:.99}"
    question = _get(asked, "question", str, place)
    found = enumerate(_get(asked, "answers", list, place))
    answers = tuple(_answer(one, context, f"{place}, answers[{n}]") for n, one in found)
    # version 1.1 has no such key: there every question has an answer
    impossible = "is_impossible" in asked and _get(asked, "is_impossible", bool, place)
    if impossible and answers:
        raise ValueError(f"{place} is marked impossible, but has {len(answers)} answers")
    if not impossible and not answers:
        raise ValueError(f"{place} has no answers and is not marked impossible")
    return Example(id, question, context, answers)


def _answer(one: object, context: str, place: str) -> Answer:
    text, start = _get(one, "text", str, place), _get(one, "answer_start", int, place)
    if not text:
        raise ValueError(f"{place} is empty")
    if not 0 <= start <= len(context) - len(text):
        raise ValueError(
            f"{place}: {text!r:.200} at {start} does not fit a context of {len(context)} characters"
        )
    stands = context[start : start + len(text)]
    if stands != text:
        raise ValueError(f"{place}: {text!r:.200} is not at {start}; there stands {stands!r:.200}")
    return Answer(text, start)


def _get(holder: object, key: str, kind: type, place: str):
    """``holder[key]``, which must be exactly of ``kind`` (JSON's true is no whole number)."""
    if not isinstance(holder, dict):
        raise ValueError(f"{place}: expected an object with {key!r}, got {_name(holder)}")
    if key not in holder:
        keys = ", ".join(map(repr, holder))[:200] or "no keys"
        raise ValueError(f"{place}: no {key!r}, got {keys}")
    if type(holder[key]) is not kind:
        raise ValueError(f"{place}: {key!r} is {_name(holder[key])}, expected {NAMES[kind]}")
    if kind is str and SURROGATE.search(holder[key]):
        raise ValueError(f"{place}: {key!r} has half a surrogate pair, which is no character")
    return holder[key]


def _name(value: object) -> str:
    return NAMES[type(value)]
