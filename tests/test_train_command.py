"""`python -m mylib train`: all sources, objectives, flags and files, and weights that exist."""

import json
import tomllib

import pytest
import tiktoken
import tiny
import torch
from safetensors import safe_open
from test_commands import SMALL, TEXT, run

from mylib import datasets, tokenizer
from mylib.commands import train_data, train_settings
from mylib.convert import load_gpt2, to_gpt2, with_vocabulary
from mylib.gazette import Gazette
from mylib.model import GPT, GPTConfig
from mylib.objectives import MaskedLM, NextToken
from mylib.tokenizer import load_tokenizer
from mylib.train import evaluate
from mylib.vocabulary import compact, fingerprint, ordinary


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a text, in which the tests work."""
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(capsys, *more, steps=2, source=("--text", "text.txt")):
    """What the command printed, a line each; it went well."""
    code, out, err = run(capsys, "train", *source, "--steps", steps, *SMALL, *more)
    assert code == 0 and not err, err
    return out.splitlines()


def refused(capsys, *more, source=("--text", "text.txt")):
    """The one line that it said instead."""
    code, out, err = run(capsys, "train", *source, "--steps", 2, *SMALL, *more)
    assert code == 2 and len(err) == 1, (out, err)
    return err[0]


def header(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


# -- objectives --------------------------------------------------------------------------------

EXACT, BOUND = "per character (held out, exact)", "per character (held out, an upper bound)"
OTHER = "nats per answer (held out, not comparable)"


@pytest.mark.parametrize(
    ("objective", "meaning", "lines"),
    [
        (["next"], EXACT, 1),
        (["previous"], EXACT, 1),
        (["previous", "--set", "positions=start"], "(held out, exact, the length given)", 1),
        (["both"], EXACT, 2),
        (["masked", "--set", "rate=0.3"], OTHER, 1),
        (["next-masked"], OTHER, 1),
        (["prefix", "--set", "prefix=3"], OTHER, 1),
        (["denoising"], OTHER, 1),
        (["diffusion"], BOUND, 1),
        (["diffusion", "--set", "weighting=none"], OTHER, 1),
    ],
    ids=str,
)
def test_every_objective_and_what_its_number_means(objective, meaning, lines, desk, capsys):
    out = trained(capsys, "--objective", *objective)
    told = [line for line in out if line.startswith(("before: ", "after: "))]
    assert len(told) == 2 * lines and all(line.endswith(meaning) for line in told)
    assert out[-1] == "saved model.safetensors" and GPT.load("model.safetensors")


def test_the_numbers_are_those_of_evaluate(desk, capsys):
    out = trained(
        capsys, "--objective", "masked", "--set", "rate=0.3", "--out", "new/m.safetensors"
    )
    model, (_, held_out) = GPT.load("new/m.safetensors"), framed().split(0.1)
    objective, noise = MaskedLM(0.3), torch.Generator().manual_seed(0)
    nats = evaluate(model, objective, held_out.windows(), noise, batch=16, row=16).sum()
    noise, answers = torch.Generator().manual_seed(0), 0
    for start in range(0, len(held_out.windows()), 16):
        rows = objective.alone(held_out.windows()[start : start + 16], 16)
        answers += sum(len(each.targets) for each in objective.passes(rows, noise))
    assert out[2].startswith(f"after: {nats / answers:.3f} nats per answer")
    assert header("new/m.safetensors")["objective"] == repr(objective)


def framed(encoding=None):
    return datasets.Stream.of(TEXT, 16, encoding, framed=True)


def test_wrong_words_come_from_the_tokens_in_use(desk, capsys):
    trained(capsys, "--objective", "denoising", "--compact")
    kinds = load_tokenizer("model.tiktoken").n_vocab
    assert f"replacements=range(6, {kinds})" in header("model.safetensors")["objective"]


def test_a_leak_is_refused_before_training(desk, capsys):
    leaking = ["--set", "mask=bidirectional"]
    line = refused(capsys, *leaking)
    assert "LEAKS, the first: row 0: output 0 must name word 1" in line and "--allow-leaks" in line
    assert not (desk / "model.safetensors").exists()
    trained(capsys, *leaking, "--allow-leaks")
    trained(capsys, *leaking, "--layers", 0)  # where nothing flows nothing leaks


# -- sources and tokens ------------------------------------------------------------------------


def test_a_newspaper_has_a_floor(desk, capsys, monkeypatch):
    monkeypatch.setattr(train_data, "JUDGED", 20)
    story, wide = ("--gazette", "evening"), ("--window", 40)
    gazette = Gazette.load()
    for objective in ("both", "diffusion"):
        out = trained(capsys, "--objective", objective, *wide, source=story)
        assert out[-2] == f"floor: {gazette.entropy:.3f} nats per story (the entropy)"
        assert "per story (held out" in out[1]
    out = trained(capsys, "--objective", "masked", *wide, source=story)
    assert not any("floor" in line for line in out)
    assert "own tokens" in refused(capsys, "--compact", source=story)


def test_tokens_of_a_file(desk, capsys):
    datasets.write_tokens("text.tokens", [" " + TEXT], load_tokenizer())
    from_text = trained(capsys, "--out", "one.safetensors")
    from_file = trained(capsys, "--out", "two.safetensors", source=("--tokens", "text.tokens"))
    assert from_text[:-1] == from_file[:-1]
    assert "no token file" in refused(capsys, source=("--tokens", "text.txt"))
    assert "needs a text" in refused(capsys, "--compact", source=("--tokens", "text.tokens"))


def test_public_corpora(desk, capsys, monkeypatch):
    monkeypatch.setattr(train_data, "tiny_shakespeare", lambda: TEXT)
    shakespeare = trained(capsys, source=("--corpus", "tinyshakespeare"))
    assert shakespeare[1:] == trained(capsys)[1:]
    articles = {"train": [TEXT, TEXT], "test": ["the dog sat on the mat. " * 9]}
    monkeypatch.setattr(train_data, "wikitext2", articles.__getitem__)
    out = trained(capsys, source=("--corpus", "wikitext2"))
    held_out = datasets.Stream.of("".join(articles["test"]), 16, framed=True)
    assert f", {len(held_out.ids)} held out" in out[0]


def test_compact_tokens_are_saved_beside_the_model(desk, capsys):
    out = trained(capsys, "--compact", "--out", "small.safetensors")
    assert out[-2:] == [
        "saved small.safetensors and its tokens, small.tiktoken",
        'to load them: GPT.load("small.safetensors"), load_tokenizer("small.tiktoken")',
    ]
    saved, model = load_tokenizer("small.tiktoken"), GPT.load("small.safetensors")
    assert saved.n_vocab == model.config.vocab_size < load_tokenizer().n_vocab
    assert header("small.safetensors")["vocabulary"] == fingerprint(saved)
    again = trained(capsys, "--tokenizer", "small.tiktoken", "--out", "again.safetensors")
    assert again[:-2] == out[:-2]
    few = trained(capsys, "--vocabulary", 800)
    assert few[0].endswith(" 806 kinds")


def test_sources_and_tokens_that_cannot_be(desk, capsys, monkeypatch):
    # Tests on real files may have read GPT-2's vocabulary in this process.
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    for change, words in [
        (
            ["--gazette", "evening"],
            "give one of --text, --tokens, --corpus, --gazette; found ",
        ),
        (["--compact", "--vocabulary", 300], "both choose the tokens"),
        (["--vocabulary", 200], "of the 256 single bytes"),
        (["--tokenizer", "gpt3"], "--tokenizer is gazette, gpt2 or a ranks file; no file gpt3"),
        (["--tokenizer", "text.txt"], "text.txt is not a ranks file"),
        (["--tokenizer", "gpt2"], "GPT-2's vocabulary is not cached"),
        (["--set", "colour=3"], "NextToken has no setting 'colour'; known: mask"),
        (["--objective", "masked", "--set", "mask_token=3"], "known: mask, rate, split"),
        (["--objective", "masked", "--set", "rate=2"], "a rate lies above 0"),
        (["--set", "mask=diagonal"], "mask is one of causal, anticausal, bidirectional"),
        (["--set", "rate"], "NAME=VALUE"),
        (["--precision", "fp16"], "fp16 is for GPUs; a CPU has bf16"),
    ]:
        assert words in refused(capsys, *change), change
    assert "found none" in refused(capsys, source=())
    if not torch.cuda.is_available():
        assert "finds no CUDA device" in refused(capsys, "--device", "cuda")
    code, _, err = run(capsys, "train", "--text", "text.txt")
    assert code == 2 and "how many steps? --steps" in err[0]


# -- settings ----------------------------------------------------------------------------------


def printed(capsys, *arguments):
    code, out, err = run(capsys, "train", *arguments, "--print-config")
    assert code == 0 and not err, err
    return out


def test_a_file_of_settings(desk, capsys):
    flags = ["--text", "text.txt", "--steps", 2, *SMALL, "--objective", "masked", "--compact"]
    flags += ["--set", "rate=0.3", "--set", "split=(1.0, 0.0, 0.0)"]
    (desk / "run.toml").write_text(printed(capsys, *flags))
    assert printed(capsys, "--config", "run.toml") == (desk / "run.toml").read_text()
    found = tomllib.loads((desk / "run.toml").read_text())
    assert found["set"] == {"rate": 0.3, "split": [1.0, 0.0, 0.0]} and found["window"] == 16
    assert found["learning-rate"] == 0.01 and "checkpoint" not in found
    one, two = (run(capsys, "train", *how) for how in (flags, ["--config", "run.toml"]))
    assert one == two and one[0] == 0


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(desk, capsys):
    (desk / "run.toml").write_text(
        'steps = 5\nbatch = 3\ncompact = true\ntext = "a"\n[set]\nrate = 1\n'
    )
    how = ["--config", "run.toml", "--batch", 7, "--no-compact", "--gazette", "sunday"]
    found = tomllib.loads(printed(capsys, *how, "--set", "rate=0.5"))
    assert (found["steps"], found["batch"], found["window"]) == (5, 7, 128)
    assert found["compact"] is False and found["set"] == {"rate": 0.5}
    assert found["gazette"] == "sunday" and "text" not in found
    assert tomllib.loads(printed(capsys, "--gpt2", "gpt2"))["learning-rate"] == 1e-3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("wimdow = 3", "unknown setting 'wimdow'; known: text, tokens, "),
        ('steps = "3"', "steps is of type int, got '3'"),
        ("steps = true", "steps is of type int, got True"),
        ("compact = 1", "compact is of type bool"),
        ('objective = "nest"', "objective is one of next, previous, "),
        ("steps = ", "not a TOML file"),
        ("set = 3", "set is a table"),
    ],
)
def test_a_file_that_is_refused(line, words, desk, capsys):
    (desk / "run.toml").write_text(line)
    error = refused(capsys, "--config", "run.toml")
    assert words in error and "run.toml" in error


def test_every_flag_is_in_the_help_and_reaches_the_settings(capsys):
    _, out, _ = run(capsys, "train", "--help")
    assert all(f"--{name}" in out for name in train_settings.FLAGS)


# -- weights that are there already ------------------------------------------------------------


def test_going_on_from_a_model_of_ours(desk, capsys):
    first = trained(capsys, "--compact", "--out", "one.safetensors")
    how = ["--tokenizer", "one.tiktoken", "--init", "one.safetensors", "--out", "two.safetensors"]
    second = trained(capsys, *how)
    assert second[1].split(": ")[1] == first[2].split(": ")[1]  # before, as it was after
    assert "trained on other tokens" in refused(capsys, "--init", "one.safetensors")
    assert "16 positions, --window is 20" in refused(capsys, *how, "--window", 20)
    assert "take one of them" in refused(capsys, *how, "--gpt2", "x")
    tiny.gpt(vocab_size=load_tokenizer().n_vocab).save("unnamed.safetensors")  # as the shipped ones
    trained(capsys, "--init", "unnamed.safetensors")


@pytest.fixture
def gpt2(monkeypatch):
    """An encoding in GPT-2's form: words first, its end of text last."""
    words = [bytes([i]) for i in range(256)] + [b"th", b" th", b"at", b" s", b" m", b"og"]
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=tokenizer.PATTERN,
        mergeable_ranks={word: i for i, word in enumerate(words)},
        special_tokens={"<|endoftext|>": len(words)},
    )
    monkeypatch.setattr(tokenizer, "gpt2_tokenizer", lambda: encoding)
    return encoding


def saved_gpt2(folder, vocab_size):
    """A tiny GPT-2 of transformers, on disk."""
    model = to_gpt2(tiny.gpt(vocab_size=vocab_size))
    model.save_pretrained(folder)
    return model


def test_rows_follow_their_tokens(gpt2):
    model = tiny.gpt(vocab_size=gpt2.n_vocab)
    small = compact(gpt2, "that dog sat on the mat")
    moved = with_vocabulary(model, gpt2, small)
    assert moved.config.vocab_size == small.n_vocab < gpt2.n_vocab + 6 and not moved.training
    for token, i in ordinary(small).items():
        old = gpt2.encode_single_token(token)
        assert torch.equal(moved.wte.weight[i], model.wte.weight[old])
    for special in range(6):
        torch.testing.assert_close(moved.wte.weight[special], model.wte.weight.mean(0))
    ids, old = (e.encode_ordinary("that dog sat") for e in (small, gpt2))
    ours, theirs = moved(torch.tensor([ids])), model(torch.tensor([old]))
    torch.testing.assert_close(ours[..., ids], theirs[..., old])
    with pytest.raises(ValueError, match="the model has 9 tokens, not 263"):
        with_vocabulary(tiny.gpt(vocab_size=9), gpt2, small)
    with pytest.raises(ValueError, match="tokens have no row in the model"):
        with_vocabulary(model, gpt2, load_tokenizer())


def test_fine_tuning_gpt2(desk, capsys, gpt2):
    saved_gpt2("theirs", gpt2.n_vocab)
    capsys.readouterr()
    how = ["--gpt2", "theirs", "--tokenizer", "gpt2", "--compact"]
    out = trained(capsys, *how, "--dropout", 0.1)
    assert (
        out[-1] == 'to load them: GPT.load("model.safetensors"), load_tokenizer("model.tiktoken")'
    )
    model, encoding = GPT.load("model.safetensors"), load_tokenizer("model.tiktoken")
    assert (model.config.n_layer, model.config.dropout) == (2, 0.1)  # its own size, not the flags'
    began = with_vocabulary(load_gpt2("theirs"), gpt2, encoding)
    _, held_out = framed(encoding).split(0.1)
    nats = evaluate(began, NextToken(), held_out.windows()).sum()
    words = 14 * len(held_out.windows())
    assert out[1].startswith(f"before: {nats / words:.3f} nats per token")
    # Another objective on the same weights, and a model that went through transformers.
    trained(capsys, *how, "--objective", "diffusion")
    saved_gpt2("back", load_tokenizer().n_vocab)
    capsys.readouterr()
    trained(capsys, "--gpt2", "back")
    assert "have no row in the model" in refused(capsys, "--gpt2", "theirs")
    where = ["--text", "text.txt", "--steps", 2, *SMALL, "--gpt2", "no/body"]
    code, _, err = run(capsys, "train", *where)
    assert code == 2 and "neither the hub nor its cache" in err[0]


def test_the_whole_vocabulary_of_gpt2(real_data, desk, capsys):
    whole = tokenizer.gpt2_tokenizer()
    saved_gpt2("theirs", whole.n_vocab)
    capsys.readouterr()
    out = trained(capsys, "--gpt2", "theirs", "--tokenizer", "gpt2", "--compact")
    model, small = GPT.load("model.safetensors"), load_tokenizer("model.tiktoken")
    assert model.config.vocab_size == small.n_vocab < 400
    assert small.decode(framed(small).ids.tolist()) == TEXT
    assert json.dumps(out) and out[0].endswith(f"{small.n_vocab} kinds")


def test_sizes_of_a_new_model(desk, capsys):
    trained(capsys, "--heads", 2, "--layers", 2)
    sizes = GPTConfig(load_tokenizer().n_vocab, 16, 16, 2, 2)
    assert GPT.load("model.safetensors").config == sizes
