"""The README and the datasheet are true: their code runs, their numbers and links are right."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mylib.experiments.datasheet import table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "data" / "results"
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = [c.split("#")[0].strip() for c in re.findall(r"^python -m mylib .*$", README, re.M)]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the files that the README's reader has: a decoder, a text, tagged sentences."""
    from transformers import LlamaConfig, LlamaModel

    sizes = dict(vocab_size=1000, hidden_size=16, intermediate_size=32, num_hidden_layers=2)
    LlamaModel(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(tmp_path / "my-decoder")
    (tmp_path / "input.txt").write_text("The late ferry came on time. Nobody believed it.\n" * 200)
    (tmp_path / "my.conll").write_text("Ada\tB-PER\nlost\tO\na\tO\nwig\tO\n.\tO\n\n" * 8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_of_the_readme_runs(block, desk, capsys):
    torch.manual_seed(0)
    exec(compile(block, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert out
    for promised in re.findall(r"# \.\.\. (.*)$", block, re.M):
        assert promised in out
    if "audit(" in block:  # a causal decoder is no encoder
        assert "NOT bidirectional: whole model, one row: token 0 does not see token 1" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_run(command, desk):
    words = shlex.split(command.replace("--steps 300", "--steps 2"))[1:]
    done = subprocess.run([sys.executable, *words], cwd=desk, capture_output=True, text=True)
    assert done.returncode == ("audit" in command), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "data/README.md"])
def test_make_targets_exist(page):
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(), re.M))
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("page", ["README.md", "data/README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists()


def test_every_result_can_be_run_again():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = {path.name.removesuffix(".csv").removesuffix(".json") for path in RESULTS.iterdir()}
    rows = dict(re.findall(r"^\| `(\S+)` \| .+? \| (`.+?`).*? \|.*?\|$", text, re.M))
    assert set(rows) == files
    for path in RESULTS.glob("*.json"):
        command = json.loads(path.read_text())["command"]
        wanted = {"benchmark": "make bench", "notebooks": "make test"}.get(path.stem, command)
        assert rows[path.stem] == f"`{wanted}`", path.name


def test_datasheet_is_up_to_date():
    assert table() in (ROOT / "data/README.md").read_text()
