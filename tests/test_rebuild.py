"""`pretrain` is deterministic: the same command gives the same bytes, killed on the way or not.

On one machine type, that is: another processor rounds otherwise, and thousands of steps make other
weights of it, with the same promises: `rebuild.csv`, written by `tools/promises.py`.
"""

import csv
import hashlib
import json

import promises
import pytest
import torch
from safetensors import safe_open

from mylib.commands import pretrain
from mylib.files import data_path, read_safetensors, write_safetensors
from mylib.model import FORMAT
from mylib.objectives import NextToken
from mylib.train import fit

# Mixed takes half an hour on one core; denoiser and diffusion, trained on a GPU, take hours.
REBUILT = {"causal", "mlm", "prefix", "dual"}


@pytest.fixture
def short(monkeypatch):
    """A recipe of two short rounds in the place of ``causal``."""
    recipe = pretrain.Recipe(
        "small", NextToken(), measure=lambda *_: {}, steps=3, batch=4, again=(2, 1e-3)
    )
    monkeypatch.setitem(pretrain.RECIPES, "causal", recipe)


def digest(folder):
    (file,) = folder.iterdir()  # nothing is left beside it
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_same_command_gives_the_same_bytes(short, tmp_path):
    for name in "ab":
        pretrain.build("causal", tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    pretrain.build("causal", tmp_path / "c", steps=2)
    assert digest(tmp_path / "c") != digest(tmp_path / "a")


def test_so_does_a_killed_one(short, tmp_path, monkeypatch):
    pretrain.build("causal", tmp_path / "whole")

    class Killed(BaseException):
        pass

    def killed(*arguments, **options):
        def stop(step, model):
            if options["seed"] == 1 and step == 1:
                raise Killed

        return fit(*arguments, **options, save_every=1, on_step=stop)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "fit", killed)
        with pytest.raises(Killed):
            pretrain.build("causal", tmp_path / "killed")
    names = sorted(file.name for file in (tmp_path / "killed").iterdir())
    assert names == [".causal.0.run.safetensors", ".causal.1.run.safetensors"]
    pretrain.build("causal", tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_bytes_of_a_file_depend_on_its_content_alone(tmp_path):
    """The library's own order of notes changes; ten notes have one in 3,628,800 chances."""
    tensors = {"a": torch.arange(5.0), "b": torch.ones(2, 3, dtype=torch.float16)}
    notes = {f"note {n}": 'Größe "x"\n\t\\ \u2028 \x7f 🙂' * n for n in range(9)} | {"format": "f"}
    turned = dict(reversed(notes.items()))
    written = []
    for number, header in enumerate([notes, turned, notes]):
        path = tmp_path / f"{number}.safetensors"
        write_safetensors(path, tensors, header)
        written.append(path.read_bytes())
        found, read = read_safetensors(path, "f")
        assert read == notes and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert written[0] == written[1] == written[2]
    size = int.from_bytes(written[0][:8], "little")
    assert list(json.loads(written[0][8 : 8 + size])["__metadata__"]) == sorted(notes)
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == notes


def test_the_table_of_rebuilt_checkpoints_is_of_those_that_are_shipped():
    rows = list(csv.DictReader(promises.TABLE.open()))
    assert {row["checkpoint"] for row in rows} == REBUILT
    for row in rows:
        name, what = row["checkpoint"], row["what"]
        facts = json.loads(data_path(f"checkpoints/{name}.json").read_text())
        side, bound = promises.PROMISES[name][what]
        assert row["bound"] == f"at {side} {bound:.4g}"
        assert float(row["shipped"]) == facts[what], f"{name} was shipped anew: rebuild it"
        assert row["kept"] == "yes"
    said = {(row["checkpoint"], row["what"]) for row in rows}
    assert said == {(name, what) for name in REBUILT for what in promises.PROMISES[name]}


def test_a_rebuilt_checkpoint_is_judged(tmp_path):
    shipped = data_path("checkpoints/prefix.safetensors")
    facts = json.loads(shipped.with_suffix(".json").read_text())
    (tmp_path / "prefix.safetensors").write_bytes(shipped.read_bytes())
    (tmp_path / "prefix.json").write_text(json.dumps(facts))
    arguments = [str(tmp_path), "--table", str(tmp_path / "table.csv")]
    assert promises.main(arguments) == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert {row["difference"] for row in rows} == {"0"} and len(rows) == 3
    assert [row["overlap"] for row in rows] == ["yes"] * 3

    tensors, header = read_safetensors(shipped, FORMAT)
    name, tensor = next(iter(tensors.items()))
    tensors[name] = tensor + 0.5
    header.pop("format")
    write_safetensors(tmp_path / "prefix.safetensors", tensors, {"format": FORMAT, **header})
    worse = facts | {"valid_story": 0.94, "valid_story_interval": [0.93, 0.95]}
    (tmp_path / "prefix.json").write_text(json.dumps(worse))
    assert promises.main(arguments) == 1
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["kept"] for row in rows] == ["yes", "no", "yes"]
    assert [row["overlap"] for row in rows] == ["yes", "no", "yes"]
    assert {row["difference"] for row in rows} == {"0.5"}


def test_below_the_floor_no_promise_is_kept():
    """Whoever beats the entropy has seen the answer."""
    facts = {"excess": -0.02, "excess_interval": [-0.03, -0.01], "valid": 1.0}
    assert promises.kept(facts, "causal") == {"excess": False, "valid": True}
