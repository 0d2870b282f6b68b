"""`pretrain` is deterministic: the same command gives the same bytes, killed on the way or not.

On one machine type, that is: another processor rounds otherwise, and thousands of steps make other
weights of it, with the same promises (`test_shipped.py`).
"""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open

from mylib.commands import pretrain
from mylib.files import read_safetensors, write_safetensors
from mylib.objectives import NextToken
from mylib.train import fit


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
