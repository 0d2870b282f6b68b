"""`python -m mylib write`: prompts with blanks, the note's defaults, what it refuses."""

import argparse
import re
from pathlib import Path

import pytest
import tiny
import torch
from test_commands import run

from mylib.commands import write as command
from mylib.gazette import Gazette
from mylib.objectives import NextToken
from mylib.sampling import generate_diffusion
from mylib.tokenizer import BOS, EOS, MASK, PAD, decode, encode


def test_a_page_of_blanks_and_words():
    def page(prompt, length=12, end=False):
        return command.blank_page(prompt, length, end).tolist()

    lost = encode("Maud lost her")
    assert page("Maud lost her") == [BOS, *lost] + [MASK] * 8
    assert page("") == page("  ") == [BOS] + [MASK] * 11
    assert page("___ lost her") == page("[MASK] lost  her ") == [BOS, MASK, *lost[1:]] + [MASK] * 8
    assert page("Maud ____ her", end=True) == [BOS, lost[0], MASK, lost[2], EOS] + [PAD] * 7
    # Punctuation after a blank is glued, as after a word; two blanks are two words.
    (stop,) = (i for i in encode("her.") if decode([i]) == ".")
    assert page("her ___ ___.", end=True)[:6] == [BOS, lost[2], MASK, MASK, stop, EOS]
    # The name of a special token is ordinary text; a blank is the one exception.
    assert PAD not in page("<pad> ___", 20)[:-10]
    assert len(page("Maud lost her ___", 6, end=True)) == 6
    with pytest.raises(ValueError, match="6 tokens with its ends, the page 5"):
        page("Maud lost her ___", 5, end=True)


def test_given_words_stay_and_every_pass_is_shown(capsys):
    code, out, err = run(
        capsys, "write", "The ___ mist ___", "--steps", "4", "--show-steps", "--samples", "2"
    )
    assert code == 0 and not err
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("--")] == ["-- page 1", "-- page 2"]
    steps = [line for line in lines if re.match(r" *\d+  ", line)]
    assert [int(line.split()[0]) for line in steps] == [0, 1, 2, 3, 4] * 2
    assert all(line.split()[1::2][:2] == ["The", "mist"] for line in steps)
    holes = [line.count("____") for line in steps]
    assert holes[0] == 31 and holes[4] == 0 and holes[:5] == sorted(holes[:5], reverse=True)
    assert re.fullmatch(r"4 passes; pages that the grammar can write: \d of 2", lines[-1])
    assert "____" not in lines[-2]


def test_a_prompt_that_no_page_fits_is_said_so(capsys):
    """The page is written all the same; the line goes to stderr."""

    def told(*arguments):
        code, out, err = run(capsys, "write", *arguments, "--steps", "1")
        assert code == 0 and "1 passes" in out and len(err) <= 1
        return err[0] if err else ""

    impossible = "write: the Sunday edition has these words, and no page that fits this prompt"
    assert told("Maud lost her ___").endswith(impossible)
    assert told("The mist ___ came to ___").endswith(impossible)
    # Words of the tokenizer that this edition never prints, and words of nobody's.
    assert told("Maud lost her xylophone, Aino", "--model", "oracle") == (
        "python -m mylib write: the Sunday edition has no word 'xylophone', 'Aino', "
        "and so no page for this prompt"
    )
    for fine in ("", "The ___ mist came to ___", "Maud ___", "___ ___ mist"):
        assert told(fine) == ""
    # The length of the page belongs to the prompt.
    page = "The ___ mist came to Whitby at dawn. The Mole wore a loud black sock for it."
    assert told(page, "--words", "40") == told(page, "--end") == ""
    assert told(page + " The", "--words", "40").endswith(impossible)
    assert told("Maud ___", "--end").endswith(impossible)
    assert told("The ___ mist", "--words", "6").endswith(impossible)


def test_the_examples_can_be_completed():
    """The prompts of the help and of the README."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    parser = argparse.ArgumentParser()
    command.add(parser)
    found = re.findall(r"mylib write (['\"])(.*?)\1", readme + parser.description)
    assert len(found) == 2
    sunday = Gazette.load("sunday")
    for _, prompt in found:
        assert command.impossible(prompt, command.blank_page(prompt, 34, False), sunday) == ""


def test_the_notes_sampler_has_the_notes_settings(capsys, monkeypatch):
    asked = {}

    def spy(model, canvas, steps, **how):
        asked.update(how, steps=steps, seed=how["generator"].initial_seed())
        return generate_diffusion(model, canvas, steps, **how)

    monkeypatch.setattr(command, "generate_diffusion", spy)
    code, out, _ = run(capsys, "write", "--order", "note", "--model", "denoiser")
    assert code == 0
    assert {k: asked[k] for k in ("steps", "temperature", "top_k", "seed")} == {
        "steps": 25,
        "temperature": 0.8,
        "top_k": 200,
        "seed": 1337,
    }
    assert int(out.splitlines()[-1].split()[0]) <= 3  # of 25
    run(capsys, "write", "--order", "note", "--model", "denoiser", "--steps", "2", "--seed", "4")
    assert (asked["steps"], asked["seed"]) == (2, 4)


def test_the_oracle_makes_no_mistake_and_seeds_matter(capsys):
    ask = ["write", "--model", "oracle", "--order", "uncertain", "--certain", "1", "--samples", "3"]
    code, out, _ = run(capsys, *ask)
    assert code == 0 and out.endswith("pages that the grammar can write: 3 of 3\n")
    assert run(capsys, *ask)[1] == out != run(capsys, *ask, "--seed", "1")[1]
    assert (
        Gazette.load("sunday")
        .is_valid(torch.tensor([[BOS, *encode(out.splitlines()[1]), EOS]]))
        .all()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "causal"], "causal has learnt NextToken(mask=Mask(causal)): it continues"),
        (["--model", "nowhere"], "nowhere.safetensors"),
        (["--model", "nowhere.bin"], "nowhere.bin"),
        (["--samples", "0"], "--samples is at least 1, got 0"),
        (["--steps", "0"], "passes: at least 1, got 0"),
        (["--steps", "0", "--order", "note"], "max_passes is at least 1, got 0"),
        (["--words", "100"], "64 positions"),
        (["--words", "0", "Maud"], "the prompt has 2 tokens with its ends, the page 0"),
        (["Maud", "--end"], "nothing to write"),
        (["--temperature", "-1"], "got -1"),
        (["--top-k", "831"], "1..830, got 831"),
        (["--top-p", "0"], "got 0"),
        (["--certain", "0"], "got 0"),
        (["--certain", "0.9", "--steps", "3"], "give one"),
        (["--order", "note", "--revise", "flagged"], "the note's sampler has no"),
    ],
)
def test_what_it_refuses(arguments, message, capsys):
    code, out, err = run(capsys, "write", *arguments)
    assert code == 2 and not out and len(err) == 1 and message in err[0]


def test_a_model_of_ones_own(capsys, tmp_path):
    model = tiny.gpt(vocab_size=830, n_positions=34)
    model.save(tmp_path / "mine.safetensors")  # says nothing of its objective: it is tried
    code, out, _ = run(capsys, "write", "--model", tmp_path / "mine.safetensors", "--steps", "2")
    assert code == 0 and "2 passes" in out
    model.save(tmp_path / "next.safetensors", objective=repr(NextToken()))
    code, _, err = run(capsys, "write", "--model", tmp_path / "next.safetensors")
    assert code == 2 and "cannot fill holes" in err[0]
