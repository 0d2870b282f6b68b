"""What a reader may do with a bad input: give a sound value, or refuse it in words.

Everything else is an error of the reader: another exception, words that do not say which file, a
value that is not sound, more seconds or more memory than an input of this size can need.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS = 20  # for one input; the slowest takes less than one
MEMORY = 2 * 2**30  # bytes above what the process has at the beginning
REFUSALS = (ValueError, TypeError, OSError)
BARE = (UnicodeError, json.JSONDecodeError, tomllib.TOMLDecodeError)  # of a library, not ours


class Undecided(Exception):
    """A reader neither read an input nor refused it."""


class Hang(BaseException):
    """The time is over. Not an `Exception`: no reader can take it for its own."""


def outcome(read: Callable[[], object], *names: str) -> str:
    """ "accepted" or "refused"; raises `Undecided` for everything else.

    ``names``: a refusal must say one of them (the file's name).
    """
    try:
        with limits():
            read()
    except BARE as error:
        raise Undecided(f"a bare {type(error).__name__}: {error}") from error
    except REFUSALS as error:
        if fault := wordless(str(error), names):
            raise Undecided(f"{type(error).__name__} {fault}: {str(error)[:300]}") from error
        return "refused"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        raise Undecided(f"{type(error).__name__}: {str(error)[:300]}") from error
    return "accepted"


def wordless(says: str, names: tuple[str, ...]) -> str:
    """What a message lacks; "" if nothing."""
    if not 10 <= len(says) <= 5_000:
        return f"has a message of {len(says)} characters"
    if names and not any(name in says for name in names):
        return f"does not name {names[0]}"
    try:
        says.encode()
    except UnicodeEncodeError:
        return "cannot be printed"
    return ""


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Seconds and bytes for one input. Where the system cannot limit the memory, seconds alone."""

    def over(*_):
        raise Hang(f"more than {SECONDS} s")

    old = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if (size := address_space()) is not None:
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def address_space() -> int | None:
    """Bytes of this process's address space; None where /proc does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return None
