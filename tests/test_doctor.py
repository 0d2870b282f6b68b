"""`python -m mylib doctor`: each check can fail, and says what to do."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from mylib.__main__ import main
from mylib.commands import checks
from mylib.commands import doctor as module
from mylib.commands.doctor import CHECKS, MISSING, READY, doctor, verdict
from mylib.commands.pretrain import RECIPES, provenance
from mylib.files import data_path
from mylib.gazette import Gazette


def lines(name):
    """What one check says, through the same door as all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHECKS", {name: CHECKS[name]})
        found = doctor()
    assert {each.name for each in found} == {name}
    assert all("\n" not in each.message for each in found)
    return [(each.status, each.message) for each in found]


def one(name):
    (found,) = lines(name)
    return found


# -- the whole report --------------------------------------------------------------------------


def test_another_python_than_the_courses_own_is_named(monkeypatch, tmp_path):
    (tmp_path / ".venv").mkdir()
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(checks, "data_path", lambda name: tmp_path / "data" / name)
    (first, why), (second, _) = lines("python")
    assert (first, second) == ("WARN", "ok") and ".venv/bin/python -m mylib doctor" in why
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert [status for status, _ in lines("python")] == ["ok"]


def test_this_installation_is_ready(capsys):
    assert [each for each in doctor() if each.status == "FAIL"] == []
    assert verdict() == READY
    assert main(["doctor"]) == 0
    *report, last = capsys.readouterr().out.splitlines()
    assert last == READY
    assert all(re.fullmatch(r"(ok   |WARN )\w+ +\S.*", line) for line in report)
    assert {line.split()[1] for line in report} == CHECKS.keys()


def test_it_is_light():
    """Nothing heavy is loaded by the module, and only torch by the checks."""
    code = (
        "import sys; from mylib.commands import doctor as d; "
        "assert not {'torch', 'numpy', 'jupyter_client', 'psutil'} & sys.modules.keys(); "
        "print(d.verdict()); "
        "print(sorted({'transformers', 'accelerate', 'matplotlib', 'jupyterlab', 'ipywidgets'}"
        " & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [READY, "[]"], done.stderr


STATUSES = {
    "fine": (["ok", "ok"], 0, READY),
    "warned": (["ok", "WARN"], 0, READY),
    "broken": (["FAIL", "ok", "WARN"], 1, MISSING),
    "all broken": (["FAIL", "FAIL"], 1, MISSING),
}


@pytest.mark.parametrize("case", STATUSES)
def test_exit_code_and_last_line(case, capsys, monkeypatch):
    statuses, code, words = STATUSES[case]
    named = {f"check{n}": lambda s=s: iter([(s, "what to do")]) for n, s in enumerate(statuses)}
    monkeypatch.setattr(module, "CHECKS", named)
    assert verdict() == words
    assert main(["doctor"]) == code
    *report, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in report] == statuses
    assert all(line[5:] == f"check{n}      what to do" for n, line in enumerate(report))
    assert last == READY if code == 0 else last.startswith("Not ready: ")
    if code:
        assert f"({statuses.count('FAIL')})" in last


def test_a_check_that_breaks_is_one_line_and_not_the_end(monkeypatch):
    def breaks():
        yield "ok", "so far"
        raise RuntimeError("two\nlines")

    fine = iter([("ok", "fine")])
    monkeypatch.setattr(module, "CHECKS", {"one": breaks, "two": lambda: fine})
    assert doctor() == [
        (
            "FAIL",
            "one",
            "RuntimeError: two lines; run `make setup`, or `python -m pip install -e .`",
        ),
        ("ok", "two", "fine"),
    ]


# -- Python and packages -----------------------------------------------------------------------


def test_an_old_python(monkeypatch):
    assert lines("python")[-1][0] == "ok"  # before it may stand that this is not the course's own
    monkeypatch.setattr(checks, "OLDEST", (9, 8))
    status, message = lines("python")[-1]
    assert status == "FAIL" and message.endswith(
        "is too old: make the environment anew with 9.8 or newer"
    )


def test_packages_that_are_missing_or_of_another_version(monkeypatch):
    wanted = [
        "pytest>=1",
        "no-such-package>=2",
        "packaging<2",
        "no-such-tool>=3; extra == 'test'",
        "regex<1; extra == 'test'",
        "no-such-system; sys_platform == 'nowhere'",
        "no-such-extra; extra == 'other'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    found = lines("packages")
    assert [status for status, _ in found] == ["FAIL", "FAIL", "WARN", "WARN", "ok"]
    messages = [message for _, message in found]
    assert messages[0] == (
        'no-such-package is not installed: `python -m pip install "no-such-package>=2"`'
    )
    assert re.fullmatch(r"packaging is [\d.]+, not <2: `.*\"packaging<2\"`", messages[1])
    assert "no-such-tool is not installed (only the tests need it)" in messages[2]
    assert re.match(r"regex is [\d.]+, not <1 \(only the tests need it\)", messages[3])
    assert messages[4] == "1 in the versions that the course asks for"


def test_versions_of_builds_and_of_previews_count(monkeypatch):
    versions = {
        "one": "2.13.1+cpu",
        "two": "2.13.2.dev1",
        "three": "2.12.9+cu126",
        "four": "2.14.0",
    }
    wanted = [f"{name}>=2.13,<2.14" for name in versions]
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    found = lines("packages")
    assert [status for status, _ in found] == ["FAIL", "FAIL", "ok"]
    assert found[0][1].startswith("three is 2.12.9+cu126, not <2.14,>=2.13: `")
    assert found[1][1].startswith("four is 2.14.0, not <2.14,>=2.13: `")
    assert found[2][1].startswith("2 in the versions")


def test_a_course_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(checks, "PROJECT", "no-such-project")
    status, message = one("packages")
    assert status == "FAIL" and "no-such-project) is not installed: run `make setup`" in message


def test_a_torch_that_is_missing_or_counts_wrongly(monkeypatch):
    assert one("torch")[0] == "ok"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        status, message = one("torch")
        assert status == "FAIL" and "Error: import of torch" in message
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__matmul__", torch.Tensor.__mul__)
        status, message = one("torch")
        assert status == "FAIL" and "multiplies wrongly" in message
    nan = torch.tensor([1, 1, 1, float("nan")])[:, None]  # a later query, as rows go blind
    for wrong in (nan, 0.5):
        with monkeypatch.context() as patch:
            patch.setattr(
                torch.nn.functional,
                "scaled_dot_product_attention",
                lambda q, k, v, attn_mask, wrong=wrong: v * wrong,
            )
            status, message = one("torch")
            assert status == "FAIL" and "attention" in message and "wrong numbers" in message


# -- data --------------------------------------------------------------------------------------


def test_a_gazette_that_is_damaged(monkeypatch, tmp_path):
    assert one("gazette")[0] == "ok"
    for wrong in ("nan", "inf", "0.0"):
        with monkeypatch.context() as patch:
            patch.setattr(Gazette, "entropy", float(wrong))
            status, message = one("gazette")
            assert status == "FAIL" and f"entropy of {wrong}: get data/ again" in message
    (tmp_path / "cut.toml").write_text("[slots")
    monkeypatch.setattr("mylib.gazette.data_path", lambda name: tmp_path / "cut.toml")
    assert one("gazette")[0] == "FAIL"
    monkeypatch.setattr("mylib.gazette.data_path", lambda name: data_path("no-such.toml"))
    status, message = one("gazette")
    assert status == "FAIL" and "no-such.toml is not among the course's data" in message


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A data folder of the test's own, with one small checkpoint for each recipe."""
    (tmp_path / "checkpoints").mkdir()
    for name, recipe in RECIPES.items():
        path = tmp_path / "checkpoints" / f"{name}.safetensors"
        tiny.gpt().save(path, **provenance(recipe))
    monkeypatch.setattr(checks, "data_path", lambda name: tmp_path / name)
    return tmp_path / "checkpoints"


def test_checkpoints_that_are_not_there_are_a_warning(shelf):
    shipped = len(RECIPES)
    assert one("checkpoints") == ("ok", f"{shipped} found, and made for the grammar that is there")
    (shelf / "mixed.safetensors").unlink()
    assert lines("checkpoints") == [
        ("WARN", "mixed is not there: `python -m mylib pretrain mixed` trains it"),
        ("ok", f"{shipped - 1} found, and made for the grammar that is there"),
    ]
    shutil.rmtree(shelf)
    assert [status for status, _ in lines("checkpoints")] == ["WARN"] * len(RECIPES)


@pytest.mark.parametrize("stale", [("grammar",), ("ranks",), ("grammar", "ranks")])
def test_checkpoints_of_another_grammar(shelf, stale):
    notes = provenance(RECIPES["causal"])
    for key in stale:
        notes[key] = "0" * 64
    tiny.gpt().save(shelf / "causal.safetensors", **notes)
    status, message = lines("checkpoints")[0]
    assert status == "FAIL"
    assert message.startswith(f"causal was trained on other {' and '.join(stale)}: get data/ again")


def test_checkpoints_that_are_damaged_or_say_nothing(shelf):
    path = shelf / "causal.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    status, message = lines("checkpoints")[0]
    assert status == "FAIL" and str(path) in message and "damaged" in message
    tiny.gpt().save(path)
    status, message = lines("checkpoints")[0]
    assert status == "FAIL" and "other grammar and ranks" in message


def test_other_files_beside_the_checkpoints(shelf):
    (shelf / ".mixed.run.safetensors").write_bytes(b"half")
    (shelf / "causal.json").write_text("{}")
    tiny.gpt().save(shelf / "mine.safetensors")
    assert one("checkpoints")[1].startswith(f"{len(RECIPES) + 1} found")
    (shelf / "mine.safetensors").write_bytes(b"half")
    status, message = lines("checkpoints")[0]
    assert status == "FAIL" and "mine.safetensors" in message


# -- Jupyter -----------------------------------------------------------------------------------


def kernel_of(program, monkeypatch, tmp_path):
    """Let Jupyter find a kernel `python3` that starts this program."""
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True, exist_ok=True)
    argv = [str(program), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    content = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(content))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    return folder


def test_a_kernel_of_this_environment(monkeypatch, tmp_path):
    assert one("kernel")[0] == "ok"
    here = Path(sys.executable)
    for program in ("python", "python3", here, here.parent / "." / here.name):
        kernel_of(program, monkeypatch, tmp_path)
        assert one("kernel") == ("ok", "the kernel `python3` belongs to this environment")


def test_a_kernel_of_another_environment(monkeypatch, tmp_path):
    # Another environment on the same Python: its program is a link to the very same file.
    other = tmp_path / "other" / "bin" / "python"
    other.parent.mkdir(parents=True)
    other.symlink_to(Path(sys.executable).resolve())
    for program in (other, "/no/such/python", "python9.9"):
        folder = kernel_of(program, monkeypatch, tmp_path)
        status, message = one("kernel")
        assert status == "FAIL"
        assert message == (
            f"the kernel `python3` starts {program}, not {sys.executable}: run "
            f"`{sys.executable} -m ipykernel install --sys-prefix --name python3`; "
            f"if that does not help, remove {folder}"
        )


def test_no_kernel_at_all(monkeypatch):
    def nothing(self, name):
        raise NoSuchKernel(name)

    with monkeypatch.context() as patch:
        patch.setattr(KernelSpecManager, "get_kernel_spec", nothing)
        status, message = one("kernel")
        assert status == "FAIL" and message.startswith("Jupyter has no kernel `python3`: run `")
    with monkeypatch.context() as patch:
        patch.setattr(KernelSpecManager, "get_kernel_spec", lambda *_: KernelSpec(argv=[]))
        assert one("kernel")[0] == "FAIL"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "ipykernel is not installed" in one("kernel")[1]


def test_widgets_without_their_extension(monkeypatch, tmp_path):
    assert one("widgets")[0] == "ok"
    monkeypatch.setattr("jupyter_core.paths.jupyter_path", lambda *_: [str(tmp_path)])
    status, message = one("widgets")
    assert status == "FAIL" and message.startswith("JupyterLab does not find @jupyter-widgets/")
    folder = tmp_path / "@jupyter-widgets" / "jupyterlab-manager"
    folder.mkdir(parents=True)
    assert one("widgets")[0] == "FAIL"
    (folder / "package.json").write_text('{"name": "another"}')
    assert one("widgets")[0] == "FAIL"
    (folder / "package.json").write_text(json.dumps({"name": checks.WIDGETS}))
    assert one("widgets")[0] == "ok"


# -- the machine -------------------------------------------------------------------------------


def test_little_memory_is_a_warning(monkeypatch):
    for gib, status in [(2, "ok"), (1.9, "WARN"), (0, "WARN")]:
        free = SimpleNamespace(available=int(gib * 2**30))
        monkeypatch.setattr("psutil.virtual_memory", lambda free=free: free)
        assert one("memory")[0] == status
    assert one("memory")[1] == "0.0 GiB free, less than 2: close other programs"


def test_little_room_on_the_disk_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path / "not" / "made" / "yet"))
    asked = []
    for gib, status in [(1, "ok"), (0.5, "WARN")]:

        def usage(place, gib=gib):
            asked.append(place)
            return SimpleNamespace(free=int(gib * 2**30))

        monkeypatch.setattr(shutil, "disk_usage", usage)
        assert one("disk")[0] == status
    assert one("disk")[1].endswith("less than 1: make room, or set MYLIB_CACHE")
    assert set(asked) == {tmp_path}  # the disk of the cache, and nothing is made on it


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path / "not" / "made"))
    assert one("cache") == ("ok", f"{tmp_path / 'not' / 'made'} is writable")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MYLIB_CACHE", str(tmp_path / "file" / "cache"))
    status, message = one("cache")
    assert status == "FAIL" and message.endswith("set MYLIB_CACHE to a folder of yours")
    assert str(tmp_path / "file" / "cache") in message

    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    assert "(Permission denied)" in one("cache")[1]


def test_the_device_is_told(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert one("device") == ("ok", f"cpu, {threads} thread{'s' * (threads != 1)}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert one("device")[1].startswith("mps, ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    assert one("device")[1].startswith("cuda (H200), ")
