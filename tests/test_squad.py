"""SQuAD's JSON: read as it is, or refused with the file and the question's id."""

import copy
import json
from dataclasses import FrozenInstanceError

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mylib.datasets import Answer, Example, read_squad
from mylib.metrics import exact_match

GEESE = "Two geese 🪿 cross the road. Naïve geese run."
SWANS = "Swans swim."

V1 = {
    "version": "1.1",
    "data": [
        {
            "title": "Geese",
            "paragraphs": [
                {
                    "context": GEESE,
                    "qas": [
                        {
                            "id": "g1",
                            "question": "What do they cross?",
                            "answers": [
                                {"text": "the road", "answer_start": 18},
                                {"text": "road", "answer_start": 22},
                                {"text": "road", "answer_start": 22},
                            ],
                        },
                        {
                            "id": "g2",
                            "question": "How are they?",
                            "answers": [{"text": "Naïve", "answer_start": 28}],
                        },
                    ],
                },
                {"context": "Nobody asks.", "qas": []},
            ],
        },
        {"title": "Nothing", "paragraphs": []},
    ],
}

V2 = {
    "version": "v2.0",
    "data": [
        {
            "title": "Swans",
            "paragraphs": [
                {
                    "context": SWANS,
                    "qas": [
                        {
                            "id": "s1",
                            "question": "Who swims?",
                            "answers": [{"text": "Swans", "answer_start": 0}],
                            "is_impossible": False,
                        },
                        {
                            "id": "s2",
                            "question": "Who flies?",
                            "answers": [],
                            "plausible_answers": [{"text": "Swans", "answer_start": 0}],
                            "is_impossible": True,
                        },
                    ],
                }
            ],
        }
    ],
}


@pytest.fixture
def written(tmp_path):
    """A file of these bytes, or of this value as JSON."""

    def write(content):
        path = tmp_path / "some.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


# -- what is read ---------------------------------------------------------------------------------


def test_version_1(written):
    road = Answer("road", 22)
    wanted = [
        Example("g1", "What do they cross?", GEESE, (Answer("the road", 18), road, road)),
        Example("g2", "How are they?", GEESE, (Answer("Naïve", 28),)),
    ]
    assert read_squad(written(V1)) == read_squad(str(written(V1))) == wanted
    assert not any(example.impossible for example in wanted)
    for example in wanted:  # offsets count code points
        for answer in example.answers:
            assert example.context[answer.start :].startswith(answer.text)
    assert exact_match("a road", [answer.text for answer in wanted[0].answers]) == 1.0


def test_version_2(written):
    possible, impossible = read_squad(written(V2))
    assert possible == Example("s1", "Who swims?", SWANS, (Answer("Swans", 0),))
    assert impossible == Example("s2", "Who flies?", SWANS, ())  # the plausible one is left out
    assert (possible.impossible, impossible.impossible) == (False, True)
    with pytest.raises(FrozenInstanceError):
        possible.id = "s3"
    assert len({possible, impossible, copy.copy(possible)}) == 2


def test_other_forms_of_the_same_file(written):
    wanted = read_squad(written(V1))
    unescaped = json.dumps(V1, ensure_ascii=False, indent=1)
    assert read_squad(written(unescaped.encode())) == wanted
    assert read_squad(written(b"\xef\xbb\xbf" + unescaped.replace("\n", "\r\n").encode())) == wanted
    marked = copy.deepcopy(V1)
    for asked in marked["data"][0]["paragraphs"][0]["qas"]:
        asked |= {"is_impossible": False, "more": [None]}  # what is not asked for is not read
    assert read_squad(written(marked)) == wanted


@st.composite
def files(draw):
    """Examples, and their file with one paragraph an example."""
    examples = []
    for id in draw(st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True)):
        context = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
        if not context.strip():
            context += "."
        spans = st.tuples(st.integers(0, len(context) - 1), st.integers(1, len(context)))
        answers = tuple(
            Answer(context[start : start + size], start)
            for start, size in draw(st.lists(spans, max_size=3))
        )
        examples.append(Example(id, draw(st.text(max_size=9)), context, answers))
    paragraphs = [
        {
            "context": example.context,
            "qas": [
                {
                    "id": example.id,
                    "question": example.question,
                    "answers": [{"text": a.text, "answer_start": a.start} for a in example.answers],
                    "is_impossible": example.impossible,
                }
            ],
        }
        for example in examples
    ]
    return examples, {"data": [{"paragraphs": paragraphs}]}


@given(files())
def test_what_is_written_is_read(tmp_path_factory, made):
    examples, content = made
    path = tmp_path_factory.getbasetemp() / "round.json"
    path.write_text(json.dumps(content))
    assert read_squad(path) == examples


# -- what is refused ------------------------------------------------------------------------------

PARAGRAPH = ("data", 0, "paragraphs", 0)
FIRST = (*PARAGRAPH, "qas", 0)
SECOND = (*PARAGRAPH, "qas", 1)
GONE = object()


def changed(whole, path, value):
    """The file with one value changed, or taken away."""
    whole = copy.deepcopy(whole)
    holder = whole
    for key in path[:-1]:
        holder = holder[key]
    if value is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("data",), GONE, "the file: no 'data', got 'version'"),
        (("data",), {}, "the file: 'data' is an object, expected a list"),
        (("data", 0), "x", r"data\[0\]: expected an object with 'paragraphs', got a string"),
        (("data", 0, "paragraphs"), GONE, r"data\[0\]: no 'paragraphs', got 'title'"),
        (PARAGRAPH, None, r"paragraphs\[0\]: expected an object with 'context', got null"),
        ((*PARAGRAPH, "context"), GONE, r"data\[0\]\.paragraphs\[0\]: no 'context', got 'qas'"),
        ((*PARAGRAPH, "context"), 3, "'context' is a whole number, expected a string"),
        ((*PARAGRAPH, "context"), "", r"\[0\] \(questions 's1', 's2'\): the context is empty"),
        ((*PARAGRAPH, "context"), " \n", r"\(questions 's1', 's2'\): the context is empty"),
        ((*PARAGRAPH, "qas"), GONE, r"data\[0\]\.paragraphs\[0\]: no 'qas'"),
        ((*PARAGRAPH, "qas"), "s1", "'qas' is a string, expected a list"),
        (FIRST, 1.5, r"qas\[0\]: expected an object with 'id', got a number with a point"),
        (FIRST, {}, r"qas\[0\]: no 'id', got no keys"),
        ((*SECOND, "id"), GONE, r"data\[0\]\.paragraphs\[0\]\.qas\[1\]: no 'id'"),
        ((*FIRST, "id"), 7, r"qas\[0\]: 'id' is a whole number, expected a string"),
        ((*SECOND, "id"), "s1", r"question 's1' is there twice \(data\[0\]\.paragraphs\[0\]\.qas"),
        ((*FIRST, "question"), GONE, "question 's1': no 'question'"),
        ((*FIRST, "question"), [], "question 's1': 'question' is a list, expected a string"),
        ((*FIRST, "answers"), GONE, "question 's1': no 'answers'"),
        ((*FIRST, "answers"), {"text": ["Swans"]}, "'s1': 'answers' is an object, expected a list"),
        ((*FIRST, "answers"), [], "question 's1' has no answers and is not marked impossible"),
        ((*FIRST, "is_impossible"), True, "question 's1' is marked impossible, but has 1 answers"),
        ((*FIRST, "is_impossible"), 0, "'s1': 'is_impossible' is a whole number, expected true or"),
        ((*SECOND, "is_impossible"), GONE, "question 's2' has no answers"),
        ((*SECOND, "is_impossible"), False, "question 's2' has no answers"),
        ((*FIRST, "answers", 0), "Swans", r"'s1', answers\[0\]: expected an object with 'text'"),
        (
            (*FIRST, "answers", 0, "text"),
            GONE,
            r"'s1', answers\[0\]: no 'text', got 'answer_start'",
        ),
        ((*FIRST, "answers", 0, "text"), None, r"'text' is null, expected a string"),
        ((*FIRST, "answers", 0, "text"), "", r"question 's1', answers\[0\] is empty"),
        ((*FIRST, "answers", 0, "text"), "swans", r"'swans' is not at 0; there stands 'Swans'"),
        ((*FIRST, "answers", 0, "answer_start"), GONE, "no 'answer_start', got 'text'"),
        ((*FIRST, "answers", 0, "answer_start"), 1, "'Swans' is not at 1; there stands 'wans '"),
        (
            (*FIRST, "answers", 0, "answer_start"),
            -11,
            "'Swans' at -11 does not fit a context of 11",
        ),
        ((*FIRST, "answers", 0, "answer_start"), 7, "'Swans' at 7 does not fit a context of 11"),
        ((*FIRST, "answers", 0, "answer_start"), 10**30, "does not fit a context of 11"),
        (
            (*FIRST, "answers", 0, "answer_start"),
            False,
            "'answer_start' is true or false, expected",
        ),
        ((*FIRST, "answers", 0, "answer_start"), 0.0, "is a number with a point, expected a whole"),
        (
            (*FIRST, "answers", 0, "answer_start"),
            "0",
            "'answer_start' is a string, expected a whole",
        ),
    ],
)
def test_what_is_refused(written, path, value, says):
    with pytest.raises(ValueError, match=rf"some\.json: .*{says}"):
        read_squad(written(changed(V2, path, value)))


def test_the_same_id_in_another_article(written):
    with pytest.raises(ValueError, match=r"'s1' is there twice \(data\[1\]\.paragraphs\[0\]"):
        read_squad(written({"data": V2["data"] * 2}))


def test_offsets_in_bytes_or_utf16_are_refused(written):
    # "the road" after a character of two UTF-16 units and four bytes
    answers = ("data", 0, "paragraphs", 0, "qas", 0, "answers", 0, "answer_start")
    for start in (19, 21):
        with pytest.raises(ValueError, match=rf"'g1', answers\[0\]: 'the road' is not at {start}"):
            read_squad(written(changed(V1, answers, start)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON: Expecting value"),
        (b'{"data": [', "not JSON: Expecting value"),
        (b"id\tquestion\n", "not JSON"),
        (
            json.dumps(V1, ensure_ascii=False).encode("latin-1", "replace"),
            "not JSON: 'utf-8' codec",
        ),
        (b'{"data": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (b'{"data":' * 100_000, "nested too deeply"),
        (b"[]", "the file: expected an object with 'data', got a list"),
        (b"NaN", "the file: expected an object with 'data', got a number with a point"),
    ],
)
def test_files_that_are_no_squad(written, content, says):
    with pytest.raises(ValueError, match=rf"some\.json: .*{says}"):
        read_squad(written(content))


@pytest.mark.parametrize(
    "data", [[], [{"paragraphs": []}], [{"paragraphs": [{"context": "A.", "qas": []}]}]]
)
def test_files_without_questions(written, data):
    with pytest.raises(ValueError, match=r"no questions in .*some\.json"):
        read_squad(written({"data": data}))


def test_no_file(tmp_path):
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"no file {path}$"):
            read_squad(path)
