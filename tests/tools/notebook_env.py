"""The environment of a newcomer, for tests, kernels and `make notebooks` alike.

Empty caches, no settings of the person at the keyboard, one thread, no network: committed outputs
are then the ones that anybody sees, and they can be compared word for word.
"""

import atexit
import os
import runpy
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = ROOT / "tests" / "offline"

# Each is pointed at an empty folder of its own.
FOLDERS = (
    "MYLIB_CACHE",
    "TIKTOKEN_CACHE_DIR",
    "HF_HOME",
    "IPYTHONDIR",
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
)
# Set by some people; they would reach around the folders above, or take the figures away.
DROPPED = ("HF_HUB_CACHE", "TRANSFORMERS_CACHE", "JUPYTER_PATH", "MPLBACKEND")


def enter() -> Path:
    """Change the environment of this process and of all it starts; return the scratch folder.

    The caller's MYLIB_CACHE is kept as MYLIB_TEST_CACHE, for unit tests on real files.
    """
    # pytest's `tmp_path` stays where pytest keeps it: someone may want to see what a test made.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # All other temporary files go with the scratch folder. Kernels and pytest-xdist's processes are
    # killed and tidy up nothing; theirs lie in this process's folder, since they inherit TMPDIR.
    scratch = Path(tempfile.mkdtemp(prefix="one-mask-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    (scratch / "tmp").mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch / "tmp")

    os.environ.setdefault("MYLIB_TEST_CACHE", os.environ.get("MYLIB_CACHE", ""))
    for name in FOLDERS:
        (scratch / name.lower()).mkdir()
        os.environ[name] = str(scratch / name.lower())
    for name in DROPPED:
        os.environ.pop(name, None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    # One thread is faster at these sizes, and sums come out the same everywhere.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # this process
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [str(OFFLINE), *(p for p in inherited if p and p != str(OFFLINE))]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)  # and every one it starts
    return scratch


def notebooks() -> list[Path]:
    """The chapters, in order (Jupyter's backup copies left out)."""
    found = sorted((ROOT / "notebooks").rglob("*.ipynb"))
    return [path for path in found if ".ipynb_checkpoints" not in path.parts]
