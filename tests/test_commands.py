"""`python -m mylib ...`: help, exit codes, and one line instead of a traceback."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mylib import datasets, masks
from mylib.__main__ import COMMANDS, main
from mylib.commands import measures, pretrain
from mylib.model import GPT
from mylib.objectives import NextToken
from mylib.tokenizer import BW, FW, PAD, decode
from mylib.train import evaluate, fit

SMALL = ["--window", "16", "--layers", "1", "--width", "16", "--batch", "4"]


def run(capsys, *arguments):
    """Exit code, what was printed, and what was said on stderr without the progress bars."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as end:  # argparse: help and wrong usage
        code = end.code
    out, err = capsys.readouterr()
    err = [line for line in re.split(r"[\r\n]+", err) if line.strip() and "it/s]" not in line]
    return code, out, [line for line in err if "?it/s" not in line and "s/it]" not in line]


# -- all commands ------------------------------------------------------------------------------


def test_as_a_program():
    def ask(*arguments):
        command = [sys.executable, "-m", "mylib", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    told = ask("--help")
    assert told.returncode == 0 and all(name in told.stdout for name in COMMANDS)
    wrong = ask("nonsense")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    assert "invalid choice: 'nonsense'" in wrong.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    code, out, err = run(capsys, command, "--help")
    assert code == 0 and not err
    assert f"python -m mylib {command}" in out and len(out.splitlines()) > 5


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("audit",), ("train", "--steps", "x")])
def test_wrong_usage_has_code_2(arguments, capsys):
    code, out, err = run(capsys, *arguments)
    assert code == 2 and not out and "error: " in err[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pretrain", "nonsense"), "unknown checkpoint ['nonsense']; known: ['causal'"),
        (("audit", "nowhere.safetensors", "--expect", "causal"), "nowhere.safetensors"),
        (("train", "--text", "nowhere.txt", "--steps", "3"), "no file or folder nowhere.txt"),
    ],
)
def test_an_error_is_one_line(arguments, words, capsys):
    code, out, err = run(capsys, *arguments)
    assert code == 2 and not out and len(err) == 1 and words in err[0]
    assert err[0].startswith(f"python -m mylib {arguments[0]}: ")


# -- pretrain ----------------------------------------------------------------------------------


def test_pretrain_from_end_to_end(tmp_path, capsys, monkeypatch):
    threads = torch.get_num_threads()
    quick = replace(pretrain.RECIPES["causal"], measure=lambda model, gazette: {"excess": 1.5})
    monkeypatch.setitem(pretrain.RECIPES, "causal", quick)
    code, out, err = run(capsys, "pretrain", "causal", "--steps", "3", "--out", tmp_path / "new")
    torch.set_num_threads(threads)
    assert code == 0 and not err, err
    files = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert files == ["causal.json", "causal.safetensors"]
    facts = json.loads((tmp_path / "new" / "causal.json").read_text())
    assert facts == json.loads(out)
    assert facts["steps"] == "3" and facts["excess"] == 1.5
    assert facts["device"] == "cpu" and torch.__version__.startswith(facts["torch"])
    assert facts["command"] == "python -m mylib pretrain causal"
    model = GPT.load(tmp_path / "new" / "causal.safetensors")
    assert not torch.equal(model.wte.weight, GPT(model.config).wte.weight)
    with safe_open(tmp_path / "new" / "causal.safetensors", "pt") as file:
        assert file.metadata()["objective"] == repr(NextToken())


QUICK = dict(edition="small", objective=NextToken(), steps=3, batch=4, learning_rate=1e-2)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Makes a recipe of very few steps in the place of ``causal``; the folder it builds in."""

    def quick(**changes):
        recipe = pretrain.Recipe(
            measure=lambda model, gazette: {"first": model.wte.weight[0, 0].item()},
            **{**QUICK, **changes},
        )
        monkeypatch.setitem(pretrain.RECIPES, "causal", recipe)
        return tmp_path

    threads = torch.get_num_threads()
    yield quick
    torch.set_num_threads(threads)


def by_hand(rounds, **options):
    """The model that these rounds, (steps, learning rate, seed), must give."""
    gazette = pretrain.Gazette.load("small")
    config = pretrain.GPTConfig(gazette.vocab_size, n_positions=64)
    model = GPT.init(config, torch.Generator().manual_seed(0))
    for steps, rate, seed in rounds:
        how = dict(batch=4, learning_rate=rate, seed=seed)
        fit(model, NextToken(), gazette, steps, **how, **options)
    return model.state_dict()


def equal(one, two):
    return all(torch.equal(weight, two[name]) for name, weight in one.items())


def test_a_second_round_goes_on_with_its_own_rate_and_documents(quick, capsys):
    out = quick(again=(2, 1e-3), half=True)
    code, printed, err = run(capsys, "pretrain", "causal", "--out", out)
    assert code == 0 and not err
    assert json.loads(printed)["steps"] == "3+2"
    assert sorted(file.name for file in out.iterdir()) == ["causal.json", "causal.safetensors"]
    assert {t.dtype for t in load_file(out / "causal.safetensors").values()} == {torch.float16}
    found = GPT.load(out / "causal.safetensors").state_dict()
    both = by_hand([(3, 1e-2, 0), (2, 1e-3, 1)])
    assert equal(found, {name: weight.half().float() for name, weight in both.items()})
    first = by_hand([(3, 1e-2, 0)])
    assert not equal(found, {name: weight.half().float() for name, weight in first.items()})
    # --steps: one round, of so many.
    code, printed, _ = run(capsys, "pretrain", "causal", "--steps", 2, "--out", out)
    assert code == 0 and json.loads(printed)["steps"] == "2"
    found = GPT.load(out / "causal.safetensors").state_dict()
    short = by_hand([(2, 1e-2, 0)])
    assert equal(found, {name: weight.half().float() for name, weight in short.items()})


def test_a_whole_file_holds_all_digits(quick, capsys):
    out = quick()
    assert run(capsys, "pretrain", "causal", "--out", out)[0] == 0
    assert equal(GPT.load(out / "causal.safetensors").state_dict(), by_hand([(3, 1e-2, 0)]))


def test_a_killed_run_goes_on_in_its_second_round(quick, capsys, monkeypatch):
    out = quick(again=(2, 1e-3))
    calls = []

    def killed(*arguments, **options):
        calls.append(options["seed"])
        if calls == [0, 1]:
            raise ValueError("killed")
        return fit(*arguments, **options)

    monkeypatch.setattr(pretrain, "fit", killed)
    code, _, err = run(capsys, "pretrain", "causal", "--out", out)
    assert code == 2 and "killed" in err[-1]
    assert not (out / "causal.safetensors").exists() and len(list(out.iterdir())) == 1
    code, _, err = run(capsys, "pretrain", "causal", "--out", out)
    assert code == 0 and not err and calls == [0, 1, 0, 1]
    assert sorted(file.name for file in out.iterdir()) == ["causal.json", "causal.safetensors"]
    found = GPT.load(out / "causal.safetensors").state_dict()
    assert equal(found, by_hand([(3, 1e-2, 0), (2, 1e-3, 1)]))


def test_measure_trains_nothing(quick, capsys, monkeypatch):
    out = quick()
    code, _, err = run(capsys, "pretrain", "causal", "--measure", "--out", out)
    assert code == 2 and "causal.safetensors" in err[-1] and len(err) == 1
    run(capsys, "pretrain", "causal", "--out", out)
    model = GPT.load(out / "causal.safetensors")
    model.wte.weight.data[0, 0] = 0.5
    model.save(out / "causal.safetensors", steps="9+9", device="cuda")
    before = (out / "causal.safetensors").read_bytes()
    monkeypatch.setattr(pretrain, "fit", None)  # it would fail
    code, printed, err = run(capsys, "pretrain", "causal", "--measure", "--out", out)
    assert code == 0 and not err
    facts = json.loads(printed)
    # What the file says of its making, and what is found now.
    assert facts == {
        "command": "python -m mylib pretrain causal",
        "steps": "9+9",
        "device": "cuda",
        "first": 0.5,
    }
    assert json.loads((out / "causal.json").read_text()) == facts
    assert (out / "causal.safetensors").read_bytes() == before


def test_it_trains_on_the_device_it_is_told(quick, capsys, monkeypatch):
    out, seen = quick(), []

    def look(model, *_, **__):
        seen.append(model.wte.weight.device.type)
        raise ValueError("seen")

    monkeypatch.setattr(pretrain, "fit", look)
    for device in ("cpu", "meta"):
        assert run(capsys, "pretrain", "causal", "--device", device, "--out", out)[0] == 2
    run(capsys, "pretrain", "causal", "--out", out)
    assert seen == ["cpu", "meta", "cpu"]


@pytest.fixture(scope="module")
def untrained():
    gazette = pretrain.Gazette.load("small")
    model = tiny.gpt(scale=0.02, vocab_size=gazette.vocab_size, n_positions=64, n_layer=1)
    return model, gazette


def test_the_causal_model_is_measured_as_it_says(untrained):
    model, gazette = untrained
    facts = measures.measure_causal(model, gazette, n=40)
    texts = gazette.sample(40, torch.Generator().manual_seed(2**31))
    nats = evaluate(model, NextToken(), texts).double().mean()
    wanted = nats + gazette.log_prob(gazette.canvas(texts)).mean()
    assert facts["excess"] == pytest.approx(wanted.item(), abs=1e-3)
    assert facts["floor"] == pytest.approx(gazette.entropy, abs=1e-4) and facts["valid"] == 0


def test_the_mixed_model_is_measured_as_it_says(untrained, monkeypatch):
    model, gazette = untrained
    facts = measures.measure_mixed(model, gazette, n=40, samples=4)
    texts = gazette.sample(40, torch.Generator().manual_seed(2**31))
    for way, nats in zip(("forward", "backward"), measures.both_ways(model, texts), strict=True):
        wanted = nats.double() + gazette.log_prob(gazette.canvas(texts))
        assert facts[f"{way}_excess"] == pytest.approx(wanted.mean().item(), abs=1e-3)
    # Untrained, it knows nothing of a hidden word and flags no word more than another.
    assert facts["fill_in_excess"] > 4 and facts["false_flags"] == 0
    assert facts["spoiled_found"] < 0.3 and facts["valid_confidence"] == 0
    # The oracle in its place needs nothing more than the oracle.
    monkeypatch.setattr(type(model), "hidden", lambda self, ids, *_: gazette.denoiser(ids))
    monkeypatch.setattr(type(model), "head", lambda self, answers: answers)
    monkeypatch.setattr(measures, "both_ways", lambda *_: [torch.zeros(40)] * 2)
    perfect = measures.measure_mixed(model, gazette, n=40, samples=4)
    assert perfect["fill_in_excess"] == pytest.approx(0, abs=1e-9)
    assert perfect["valid_random"] == perfect["valid_confidence"] == 1


def test_the_dual_model_is_measured_as_it_says(untrained):
    model, gazette = untrained
    facts = measures.measure_dual(model, gazette, n=40, samples=4)
    texts = gazette.sample(40, torch.Generator().manual_seed(2**31))
    for way, nats in zip(("forward", "backward"), measures.both_ways(model, texts), strict=True):
        wanted = nats.double() + gazette.log_prob(gazette.canvas(texts))
        assert facts[f"{way}_excess"] == pytest.approx(wanted.mean().item(), abs=1e-3)
        assert facts[f"valid_{way}"] == 0


def test_what_a_dual_model_writes_is_counted(untrained, monkeypatch):
    """Two real documents and two broken ones, as each direction would hand them over."""
    model, gazette = untrained
    texts = gazette.sample(4, torch.Generator().manual_seed(1))
    texts[1][2], texts[3][3] = BW, FW  # not written by any grammar
    longest = max(map(len, texts))

    def written(_, start, __, generator):
        way = int(start[0, 0])
        rows = []
        for text in texts:
            text = text.clone()
            text[0 if way == FW else -1] = way
            gap = torch.full((longest - len(text),), PAD)
            rows.append(torch.cat([text, gap] if way == FW else [gap, text]))
        return SimpleNamespace(ids=torch.stack(rows))

    monkeypatch.setattr(measures, "generate", written)
    monkeypatch.setattr(measures, "generate_backward", written)
    facts = measures.measure_dual(model, gazette, n=10, samples=4)
    assert facts["valid_forward"] == facts["valid_backward"] == 0.5


def test_the_prefix_model_is_measured_as_it_says(untrained, monkeypatch):
    model, gazette = untrained
    facts = measures.measure_prefix(model, gazette, n=40, samples=4)
    assert 4 < facts["excess"] < 8 and facts["valid_story"] == facts["valid_headline"] == 0

    seen = []

    def finished(_, prompts, __, open_prompt, generator):
        """Every prompt with the rest of a document that begins like it; the first one spoiled."""
        assert open_prompt
        seen.append(prompts)
        rows = []
        for prompt in prompts:
            whole = next(t for t in drawn if torch.equal(t[: len(prompt)], prompt))
            rows.append(torch.nn.functional.pad(whole, (3, gazette.length - len(whole))))
        rows[0][8] = rows[0][6]
        return SimpleNamespace(ids=torch.stack(rows))

    chance = torch.Generator().manual_seed(2**31)
    drawn = [t for _ in range(4) for t in gazette.sample(500, chance)]
    monkeypatch.setattr(measures, "generate", finished)
    facts = measures.measure_prefix(model, gazette, n=10, samples=10)
    assert facts["valid_story"] == facts["valid_headline"] == 0.9
    stories, headlines = seen
    for prompt in stories:
        assert gazette.text(prompt).startswith("Headline:")
    for prompt in headlines:
        assert not gazette.text(prompt).startswith("Headline:")
    for prompt in [*stories, *headlines]:
        assert gazette.text(prompt).endswith(".") and gazette.text(prompt).count(".") == 1


def test_precision_is_of_the_flags_and_recall_of_the_wrong_words():
    # Wrong words flagged, words flagged, wrong words; the rest is not asked.
    counts = torch.tensor([[1.0, 2.0, 4.0, 0.0, 1.0]] * 3)
    precision, recall = measures.precision_recall(counts)
    assert (precision.mean, recall.mean) == (0.5, 0.25)
    silent = measures.precision_recall(counts * torch.tensor([0, 0, 1, 1, 1]))
    assert [share.mean for share in silent] == [0, 0]


def test_both_ways_read_what_they_say(untrained):
    model, gazette = untrained
    texts = gazette.sample(70, torch.Generator().manual_seed(3))  # more than one batch
    forward, backward = measures.both_ways(model, texts)
    text = texts[66]
    there = torch.cat([torch.tensor([FW]), text[1:]])
    back = torch.cat([text[:-1], torch.tensor([BW])]).flip(0)
    for found, ids, answers in ((forward, there, text[1:]), (backward, back, text[:-1].flip(0))):
        with torch.no_grad():
            log_p = model(ids[None, :-1])[0].log_softmax(-1)
        wanted = -log_p.gather(-1, answers[:, None]).sum()
        torch.testing.assert_close(found[66], wanted.double(), rtol=1e-4, atol=0)


def test_pretrain_no_steps_is_not_all_steps(tmp_path, capsys):
    code, _, err = run(capsys, "pretrain", "causal", "--steps", "0", "--out", tmp_path)
    assert code == 2 and "steps is at least 1, got 0" in err[-1]


# -- audit -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "model.safetensors"
    tiny.gpt(vocab_size=24).save(path)
    return path


def folder_of(kind, path):
    """A Hugging Face folder with a tiny random model."""
    import transformers as hf

    torch.manual_seed(0)
    if kind == "gpt2":
        sizes = dict(vocab_size=24, n_positions=32, n_embd=16, n_layer=2, n_head=2)
        model = hf.GPT2LMHeadModel(hf.GPT2Config(**sizes))
    else:
        sizes = dict(vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
        model = hf.BertModel(hf.BertConfig(**sizes, intermediate_size=32))
    for weight in model.parameters():
        weight.data += 0.25 * torch.randn(weight.shape)
    model.save_pretrained(path)
    return path


def test_audit_of_our_files(ours, capsys):
    assert run(capsys, "audit", ours, "--expect", "causal") == (
        *(0, "causal: as expected in 3 checks\n"),
        [],
    )
    code, out, _ = run(capsys, "audit", ours, "--expect", "bidirectional")
    assert code == 1 and out.startswith("NOT bidirectional: whole model")
    assert "token 0 does not see token 1" in out and "# o o o" in out and "X X" not in out
    opened = ("audit", ours, "--mask", "bidirectional", "--expect")
    assert run(capsys, *opened, "bidirectional")[0] == 0
    code, out, _ = run(capsys, *opened, "causal")
    assert code == 1 and "token 0 sees token 1" in out


@pytest.mark.parametrize(("kind", "right"), [("gpt2", "causal"), ("bert", "bidirectional")])
def test_audit_of_hugging_face_folders(kind, right, tmp_path, capsys):
    folder = folder_of(kind, tmp_path / kind)
    capsys.readouterr()
    for expected in ("causal", "bidirectional"):
        code, out, err = run(capsys, "audit", folder, "--expect", expected)
        assert code == (expected != right) and not err, err
        assert out.startswith(f"{expected}: as expected" if code == 0 else f"NOT {expected}: ")
    code, _, err = run(capsys, "audit", folder, "--expect", right, "--mask", "causal")
    assert code == 2 and "brings its own" in err[0]


def test_what_cannot_be_judged_has_code_2(ours, tmp_path, capsys):
    whole = ours.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-9])
    (tmp_path / "text.txt").write_text("no model")
    (tmp_path / "empty").mkdir()
    for name, config in {
        "no weights": '{"model_type": "gpt2"}',
        "no type": "{}",
        "no json": "{",
        "no such type": '{"model_type": "nonsense"}',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    damaged = folder_of("gpt2", tmp_path / "damaged")
    capsys.readouterr()
    (damaged / "model.safetensors").write_bytes(whole[:50])
    broken = tiny.gpt(vocab_size=24)
    broken.ln_f.weight.data[0] = torch.nan
    broken.save(tmp_path / "nan.safetensors")
    tiny.gpt(vocab_size=4).save(tmp_path / "small vocabulary.safetensors")
    for path in sorted(tmp_path.iterdir()):
        code, out, err = run(capsys, "audit", path, "--expect", "causal")
        assert code == 2 and not out, path
        assert str(path) in " ".join(err) and "Traceback" not in " ".join(err)


def test_code_in_a_folder_is_not_run(tmp_path, capsys):
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "m.C", "AutoModel": "m.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "m.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    code, _, err = run(capsys, "audit", tmp_path, "--expect", "causal")
    assert code == 2 and "cannot be judged" in err[0] and not (tmp_path / "ran").exists()


# -- train -------------------------------------------------------------------------------------

TEXT = "The cat sat on the mat, and the dog lay by the door. " * 60


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def same(one, two):
    """Equal weights (the order of a file's header is not fixed)."""
    one, two = load_file(one), load_file(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def losses(out):
    """(per token, per character) before and after."""
    found = re.findall(r": ([\d.]+) nats per token, ([\d.]+) per character", out)
    return [tuple(map(float, pair)) for pair in found]


def test_train_on_a_text(text, tmp_path, capsys):
    path = tmp_path / "new" / "model.safetensors"
    arguments = ["train", "--text", text, "--steps", 60, *SMALL, "--out", path]
    code, out, err = run(capsys, *arguments)
    assert code == 0 and not err, err
    (before, _), (after, per_character) = losses(out)
    assert after < 0.5 * before
    model = GPT.load(path)
    _, held_out = datasets.Stream.of(TEXT, 16, framed=True).split(0.1)
    nats = evaluate(model, NextToken(), held_out.windows()).sum().item()
    words = 14 * len(held_out.windows())
    characters = sum(len(decode(window.tolist())) for window in held_out.windows())
    assert after == pytest.approx(nats / words, abs=1e-3)
    assert per_character == pytest.approx(nats / characters, rel=0.05)
    assert (model.config.n_layer, model.config.n_embd, model.config.n_positions) == (1, 16, 16)
    again = tmp_path / "again.safetensors"
    run(capsys, *arguments[:-1], again)
    other = tmp_path / "other.safetensors"
    run(capsys, *arguments[:-1], other, "--seed", 1)
    assert same(path, again) and not same(path, other)


def test_train_goes_on_from_its_checkpoint(text, tmp_path, capsys):
    common = ["train", "--text", text, *SMALL, "--checkpoint", tmp_path / "run", "--steps"]
    code, _, _ = run(capsys, *common, 4, "--out", tmp_path / "one")
    assert code == 0 and (tmp_path / "run").exists()
    code, _, _ = run(capsys, *common, 4, "--out", tmp_path / "two")
    assert code == 0 and same(tmp_path / "one", tmp_path / "two")
    code, _, err = run(capsys, *common, 5, "--out", tmp_path / "three")
    assert code == 2 and "steps was 4, now 5" in err[-1] and not (tmp_path / "three").exists()


def test_what_train_refuses_before_it_starts(text, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 400)
    (tmp_path / "short.txt").write_text("too short")
    for change, words in [
        (["--steps", "0"], "steps is at least 1"),
        (["--out", tmp_path / "folder"], "is a folder"),
        (["--text", tmp_path / "folder"], "no *.txt files"),
        (["--text", tmp_path / "latin.txt"], "not UTF-8"),
        (["--text", tmp_path / "short.txt"], "windows of 16 tokens"),
        (["--window", "1"], "windows of 1 tokens"),
        (["--width", "18"], "n_embd=18"),
    ]:
        out = ["--out", tmp_path / "model"]
        code, _, err = run(capsys, "train", "--text", text, "--steps", 2, *SMALL, *out, *change)
        assert code == 2 and words in err[-1] and len(err) == 1, (change, err)
    assert not (tmp_path / "model").exists()


def test_train_on_tiny_shakespeare(real_data, tmp_path, capsys):
    source = real_data / "tinyshakespeare" / "input.txt"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    out = tmp_path / "model.safetensors"
    sizes = ["--window", 32, "--layers", 1, "--width", 32, "--batch", 16]
    code, printed, err = run(capsys, "train", "--text", source, "--steps", 60, *sizes, "--out", out)
    assert code == 0 and not err
    (before, before_character), (after, after_character) = losses(printed)
    assert after < before - 0.5 and after_character < before_character - 0.2
    assert run(capsys, "audit", out, "--expect", "causal")[0] == 0


def test_the_commands_read_under_the_mask_they_name():
    model = tiny.gpt(vocab_size=24)
    ids = tiny.ids(1, 6)
    assert torch.equal(model(ids), model(ids, masks.causal))
