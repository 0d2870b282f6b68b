"""Checks of the exercises, one file a chapter.

A check tests properties of an answer and names the mistake it finds. It raises `NotSolved`, which
a notebook shows as one line without a traceback, or prints what was achieved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable


class NotSolved(AssertionError):
    """The answer is not there yet; the message says what to look at."""

    def _render_traceback_(self) -> list[str]:  # IPython shows this instead of a traceback
        return [f"Not yet: {self}"]


def check(name: str) -> Callable[[Callable], Callable]:
    """Decorate a check: stubs and crashes become `NotSolved`, success prints one line."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(answer: object, *args: object) -> None:
            message = None
            try:
                function(answer, *args)
            except NotSolved as error:
                message = str(error)
            except NotImplementedError:
                message = f"exercise {name}: write your answer in the cell above, run it, then me"
            except Exception as error:
                message = f"exercise {name}: your code stopped with {type(error).__name__}: {error}"
            if message is not None:
                raise NotSolved(message)
            print(f"Exercise {name}: solved.")

        return run

    return decorate


def expect(condition: object, mistake: str) -> None:
    """Refuse an answer with the line that names its mistake."""
    if not condition:
        raise NotSolved(mistake)
