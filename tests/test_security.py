"""Nothing that is read runs: no pickles, no code from models, no name that leads out of its folder.

Decided here: a name of something known (a corpus, an edition, an architecture, a shipped file) is
one of those or refused; a path that a person gives is an ordinary path, wherever it leads; a path
that stands in a file is refused unless it stays below ``data/``.
"""

import ast
import json
import re
import shutil
from pathlib import Path

import notebook_env
import pytest
import tiny
import torch

from mylib.__main__ import main
from mylib.commands.audit import load as load_for_audit
from mylib.commands.train_settings import _pair
from mylib.commands.write import load as load_writer
from mylib.convert import Encoder, load_gpt2
from mylib.datasets import fetch, open_tokens, read_conll, read_squad, read_text, wikitext2, wnut17
from mylib.files import data_path
from mylib.gazette import Gazette
from mylib.ledger import load_ledger, look_up
from mylib.model import GPT, GPTConfig
from mylib.tokenizer import load_tokenizer
from mylib.vocabulary import save_ranks
from mylib.zoo import tiny as of_the_zoo

ROOT = notebook_env.ROOT

# -- what the source may not say ---------------------------------------------------------------

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {"eval", "exec", "__import__"}
ATTRIBUTES = {
    *("os.system", "os.popen", "torch.save", "pandas.read_pickle", "torch.hub.load"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
}
PLAIN = re.compile(r"(?!Auto)\w+Config\.")
SWITCHES = {"shell": False, "trust_remote_code": False, "allow_pickle": False, "weights_only": True}
ALLOWED = {"tests/tools/exercise_cells.py": ["exec"]}  # it runs cells of our own notebooks
SOURCES = sorted(
    path
    for folder in ("mylib", "book", "tests/tools", "tests/offline")
    for path in (ROOT / folder).rglob("*.py")
)
SOURCES.append(ROOT / "conftest.py")


def dangers(source):
    """What in a program could run what it reads, a word for each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
            found += [n for n in names if n.partition(".")[0] in PICKLES or n in ATTRIBUTES]
        elif isinstance(node, ast.Call):
            found += in_call(node)
    return found


def in_call(node):
    name = ast.unparse(node.func)
    said = {word.arg: ast.unparse(word.value) for word in node.keywords}
    found = [name] if name in CALLS | ATTRIBUTES else []
    if name == "torch.load" and "weights_only" not in said:
        found.append(name)
    if name.endswith(".from_pretrained") and "trust_remote_code" not in said:
        # A configuration of a named class is JSON and nothing else.
        found += [] if PLAIN.match(name) else ["from_pretrained"]
    return found + [key for key, safe in SWITCHES.items() if said.get(key, str(safe)) != str(safe)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_source_runs_nothing_that_it_reads(path):
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), [])
    assert dangers(path.read_text(encoding="utf-8")) == allowed


@pytest.mark.parametrize("path", notebook_env.notebooks(), ids=lambda path: path.name)
def test_nor_do_the_notebooks(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert dangers(source) == [], cell["id"]  # a line of shell (!) is no Python either


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("import pickle", "pickle"),
        ("import numpy as np, marshal", "marshal"),
        ("from shelve import open", "shelve.open"),
        ("from os import system", "os.system"),
        ("def f(x):\n    return eval(x)", "eval"),
        ("exec(path.read_text(), {})", "exec"),
        ("__import__(name)", "__import__"),
        ("os.system('ls')", "os.system"),
        ("subprocess.run(line, shell=True)", "shell"),
        ("subprocess.run(line, shell=wanted)", "shell"),
        ("yaml.load(text, yaml.Loader)", "yaml.load"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=False)", "weights_only"),
        ("torch.save(model, path)", "torch.save"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("Auto.from_pretrained(name, trust_remote_code=True)", "trust_remote_code"),
        ("Auto.from_pretrained(name, trust_remote_code=options.trust)", "trust_remote_code"),
        ("AutoModel.from_pretrained(name)", "from_pretrained"),
        ("AutoConfig.from_pretrained(name)", "from_pretrained"),
    ],
)
def test_a_planted_line_is_found(line, word):
    assert dangers(f"import torch\n{line}\n") == [word]


def test_harmless_lines_are_not_found():
    assert not dangers(
        "model.eval()\ntorch.compile(f)\nast.literal_eval(x)\njson.load(file)\n"
        "subprocess.run([program], shell=False)\nyaml.safe_load(text)\n"
        "torch.load(path, weights_only=True)\n'eval(1), pickle'\n"
        "Auto.from_pretrained(name, trust_remote_code=False)\nGPT2Config.from_pretrained(name)\n"
    )


# -- names and paths ---------------------------------------------------------------------------

OUTSIDE = ["../pyproject.toml", "results/../../pyproject.toml", str(ROOT / "pyproject.toml")]
STRANGE = ["..\\pyproject.toml", "C:\\x", "a\0b", "", ".", "..", "/", "results//torn.csv"]


@pytest.mark.parametrize("name", [*OUTSIDE, *(n for n in STRANGE if n != ".")])
def test_no_name_leads_out_of_the_data(name):
    with pytest.raises(ValueError, match="a name below data/"):
        data_path(name)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_ledger_looks_up_numbers_in_the_data_alone(name, tmp_path):
    with pytest.raises(ValueError, match="a name below data/"):
        look_up({"file": f"data/{name}", "key": "torch"})
    text = data_path("ledger.toml").read_text("utf-8")
    file = re.search(r'^\w+ = { file = "(.+?)"', text, re.M)[1]
    (tmp_path / "ledger.toml").write_text(text.replace(file, f"data/{name}"), "utf-8")
    with pytest.raises(ValueError, match="numbers: a name below data/"):
        load_ledger(tmp_path / "ledger.toml")


@pytest.mark.parametrize("name", [*OUTSIDE, *STRANGE])
@pytest.mark.parametrize("take", [fetch, wnut17, wikitext2, of_the_zoo])
def test_a_name_of_something_known_is_one_of_those(take, name):
    with pytest.raises(ValueError, match=r"unknown data set|has the splits|no architecture"):
        take(name)


@pytest.mark.parametrize("name", [*OUTSIDE, *STRANGE])
@pytest.mark.parametrize(
    "command",
    [
        ["pretrain"],
        ["train", "--steps", "1", "--corpus"],
        ["train", "--steps", "1", "--gazette"],
        ["audit", "model", "--expect", "causal", "--mask"],
        ["write", "--revise"],
        ["write", "--order"],
    ],
    ids=lambda words: " ".join((words[0], words[-1])),
)
def test_so_are_those_of_the_commands(command, name, capsys):
    try:
        assert main([*command, name]) == 2
    except SystemExit as end:
        assert end.code == 2
    said = capsys.readouterr()
    assert not said.out and "Traceback" not in said.err


READERS = {
    "model": GPT.load,
    "write --model": load_writer,
    "edition": Gazette.load,
    "tokenizer": lambda name: load_tokenizer(name or "."),  # "" is the course's own
    "text": read_text,
    "tokens": lambda name: open_tokens(name, load_tokenizer()),
    "conll": read_conll,
    "squad": read_squad,
    "ledger": lambda name: load_ledger(name or "."),
    "audit": lambda name: load_for_audit(Path(name), None),
    "gpt2": load_gpt2,
    "encoder": Encoder,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["../x", "/no/such/x", "..\\x", "a\0b", "", "../../x/../y"])
def test_a_path_to_nothing_is_one_error_and_leaves_nothing(reader, name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises((ValueError, OSError)):
        READERS[reader](name)
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_a_path_that_a_person_gives_may_lead_anywhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tiny.gpt().save("../m.safetensors")
    assert GPT.load("../m.safetensors").config == tiny.gpt().config
    shutil.copy(data_path("gazette-small.toml"), tmp_path / "paper.toml")
    assert Gazette.load("../paper.toml").entropy == Gazette.load("small").entropy
    for write in (lambda name: tiny.gpt().save(name), lambda name: save_ranks(name, [b"a"])):
        with pytest.raises(ValueError, match="null"):
            write("a\0b")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "here",
        "m.safetensors",
        "paper.toml",
    ]
    assert not any((tmp_path / "here").iterdir())


@pytest.mark.parametrize("edition", ["../paper.toml", "paper.toml", "evening", ""])
def test_a_model_does_not_say_which_file_is_read(edition, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(data_path("gazette-small.toml"), "paper.toml")
    vocab = load_tokenizer().n_vocab
    model = GPT(GPTConfig(vocab, n_positions=64, n_embd=4, n_layer=0, n_head=1))
    model.save("m.safetensors", edition=edition)
    with pytest.raises(ValueError, match=rf"writes edition {edition!r}; known: small, sunday"):
        load_writer("m.safetensors")
    model.save("m.safetensors", edition="small")
    assert load_writer("m.safetensors")[1].grammar.edition == "Evening"


# -- code that comes with a model --------------------------------------------------------------


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


@pytest.fixture
def folder(tmp_path):
    """A model of transformers, and a file `went-off` where its code would leave it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(vocab_size=16, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def with_code(folder, **changes):
    """Code in the folder, which its configuration asks to run."""
    mark = f"from pathlib import Path\nPath({str(folder / 'went-off')!r}).touch()\n"
    code = "from transformers import GPT2Config, GPT2LMHeadModel\n"
    code += "class Config(GPT2Config): model_type = 'theirs'\n"
    code += "class Model(GPT2LMHeadModel): config_class = Config\n"
    (folder / "theirs.py").write_text(mark + code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(mark + "def generate(*_, **__): ...\n")
    config = json.loads((folder / "config.json").read_text())
    autos = ("AutoModel", "AutoModelForCausalLM")
    config["auto_map"] = {"AutoConfig": "theirs.Config"} | dict.fromkeys(autos, "theirs.Model")
    (folder / "config.json").write_text(json.dumps(config | changes))


LOADERS = {"audit": lambda folder: load_for_audit(folder, None), "gpt2": load_gpt2}
LOADERS["encoder"] = Encoder


@pytest.mark.parametrize("loader", LOADERS)
def test_code_beside_a_known_model_is_left_alone(loader, folder):
    with_code(folder)
    LOADERS[loader](folder)
    assert not (folder / "went-off").exists()


@pytest.mark.parametrize("loader", LOADERS)
def test_a_model_that_is_nothing_but_code_is_refused(loader, folder):
    with_code(folder, model_type="theirs")
    with pytest.raises(ValueError):
        LOADERS[loader](folder)
    assert not (folder / "went-off").exists()


def test_the_code_would_have_run(folder):
    from transformers import AutoModel

    with_code(folder, model_type="theirs")
    AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert (folder / "went-off").exists()


def test_nobody_can_ask_the_encoder_for_it(folder):
    with pytest.raises(TypeError, match="trust_remote_code"):
        Encoder(folder, trust_remote_code=True)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_pickle_in_the_weights_does_not_go_off(loader, folder):
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Bomb(folder / "went-off")}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|pickle|unsupported"):
        LOADERS[loader](folder)
    assert not (folder / "went-off").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)  # it is a real one
    assert (folder / "went-off").exists()


def test_a_setting_is_a_value_and_never_a_program():
    assert _pair("rate=0.3") == ("rate", 0.3)
    program = "__import__('os').getcwd()"
    assert _pair(f"rate={program}") == ("rate", program)


# -- JupyterLab --------------------------------------------------------------------------------

DOOR = re.compile(r"\bip\b|token|password|allow_origin|remote_access|xsrf|certfile|--config", re.I)


def doors(recipe):
    """Words of a recipe that would open JupyterLab to other machines or do without its token."""
    return DOOR.findall("\n".join(recipe.splitlines()))


def recipe(target):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.M)[1]


def test_the_lab_stays_on_this_machine_with_its_token():
    from jupyter_server.auth import IdentityProvider
    from jupyter_server.serverapp import ServerApp

    assert "-m jupyterlab" in recipe("lab") and not doors(recipe("lab"))
    assert doors("\t$(PY) -m jupyterlab --ServerApp.ip=0.0.0.0 --IdentityProvider.token=''") == [
        "ip",
        "token",
    ]
    # What the recipe does not say is JupyterLab's own choice.
    server, provider = ServerApp(), IdentityProvider()
    assert server.ip == "localhost" and not server.allow_remote_access and not server.allow_origin
    assert len(provider.token) >= 32 and provider.token_generated
    set_by_make = re.findall(r"JUPYTER_\w+", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert not set_by_make
