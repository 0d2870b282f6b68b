"""No test and no notebook reaches a network, and none sees the caches of the person who runs it."""

import json
import os
import socket
import subprocess
import sys

import notebook_env
import pytest
from jupyter_client.manager import start_new_kernel

# Documentation addresses (RFC 5737, RFC 3849) and a name that never exists: harmless if refused by
# nobody.
PROBE = """
import json, os, socket, subprocess, sys

def refused(action):
    try:
        action()
    except OSError as error:
        return "without a network" in str(error)
    return False

def loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    left, right = socket.socketpair()
    left.close(), right.close()
    return bool(socket.getaddrinfo("localhost", 80))

udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
found = {
    "IPv4": refused(lambda: socket.create_connection(("192.0.2.1", 80), timeout=5)),
    "IPv6": refused(lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80))),
    "connect_ex": refused(lambda: socket.socket().connect_ex(("192.0.2.1", 80))),
    "UDP": refused(lambda: udp.sendto(b"x", ("192.0.2.1", 53))),
    "getaddrinfo": refused(lambda: socket.getaddrinfo("nowhere.invalid", 443)),
    "gethostbyname": refused(lambda: socket.gethostbyname("nowhere.invalid")),
    "loopback stays free": loopback(),
    "empty caches": [os.listdir(os.environ[n]) for n in ("MYLIB_CACHE", "TIKTOKEN_CACHE_DIR")]
    == [[], []],
    "Hugging Face offline": os.environ["HF_HUB_OFFLINE"] == "1",
    "threads set": "OMP_NUM_THREADS" in os.environ,
}
udp.close()
"""
SHOW = "print(json.dumps(found))"
INNER = "print(subprocess.run([sys.executable, '-c', os.environ['PROBE']], \
capture_output=True, text=True, check=True).stdout)"


def assert_all(found):
    assert found and all(found.values()), [name for name, holds in found.items() if not holds]


def test_in_this_process():
    scope = {}
    exec(PROBE, scope)
    assert_all(scope["found"])


def test_in_a_launched_process():
    out = subprocess.run([sys.executable, "-c", PROBE + SHOW], capture_output=True, check=True)
    assert_all(json.loads(out.stdout))


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel(kernel_name="python3", stderr=subprocess.DEVNULL)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("where", ["kernel", "process launched by a kernel"])
def test_in_a_jupyter_kernel(kernel, where):
    setting = f"import os; os.environ['PROBE'] = {PROBE + SHOW!r}\n"
    printed = []

    def keep(message):
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    code = setting + PROBE + (SHOW if where == "kernel" else INNER)
    reply = kernel.execute_interactive(code, timeout=60, output_hook=keep)
    assert reply["content"]["status"] == "ok", reply["content"]
    assert_all(json.loads("".join(printed)))


def test_the_callers_cache_is_kept_for_tests_on_real_files():
    assert "MYLIB_TEST_CACHE" in os.environ
    assert os.environ["MYLIB_TEST_CACHE"] != os.environ["MYLIB_CACHE"]


MESS = """
import os, signal, subprocess, sys, tempfile
import notebook_env
notebook_env.enter()
tempfile.mkstemp()
if len(sys.argv) > 1:  # as pytest-xdist ends its processes and nbval its kernels
    os.kill(os.getpid(), signal.SIGKILL)
subprocess.run([sys.executable, __file__, "child"])
print(os.environ.get("PYTEST_DEBUG_TEMPROOT"))
"""


def test_nothing_temporary_is_left_by_a_run_nor_by_what_it_started(tmp_path):
    script, temporary = tmp_path / "mess.py", tmp_path / "temporary"
    script.write_text(MESS)
    temporary.mkdir()
    env = os.environ | {"TMPDIR": str(temporary)}
    env["PYTHONPATH"] = os.pathsep.join([str(notebook_env.ROOT / "tests/tools"), env["PYTHONPATH"]])
    env.pop("PYTEST_DEBUG_TEMPROOT", None)
    out = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert out.stdout.strip() == str(temporary), out.stderr  # what pytest keeps, it keeps outside
    assert list(temporary.iterdir()) == []


def test_a_refusal_says_why():
    with pytest.raises(OSError, match=r"192\.0\.2\.1:80 refused: tests and notebooks run without"):
        socket.create_connection(("192.0.2.1", 80), timeout=5)
