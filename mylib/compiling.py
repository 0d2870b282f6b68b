"""torch.compile for as long as a run takes, and no silent fallback.

The blocks of a `GPT` are compiled one by one (they share one compilation), each as a whole graph:
what cannot be compiled raises instead of running slowly. Masks, checks and the choice of the asked
outputs stay outside: they depend on the data, and compiling them would break into pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .model import Block

BACKEND = "inductor"
LIMIT = 64  # compilations of a block, over all shapes and settings of a process


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Within the block, the blocks of the `GPT` in ``model`` run compiled; names do not change.

    Raises `ValueError` for a model without such blocks, and where torch.compile gives up (no C++
    compiler on a CPU, more kinds of shapes than it keeps).
    """
    import torch._dynamo
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor.exc import InductorError

    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise ValueError(f"compile is for models with GPT blocks; {type(model).__name__} has none")
    for block in blocks:
        block.compile(backend=BACKEND, fullgraph=True)
    try:
        # The limit is for the whole process: every run with other settings adds to its count.
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=LIMIT):
            yield
    except (TorchDynamoException, InductorError, FailOnRecompileLimitHit) as error:
        line = " ".join(str(error).split("\n")[:2])
        raise ValueError(f"torch.compile cannot compile this model here: {line}") from error
    finally:
        for block in blocks:
            block._compiled_call_impl = None  # what `Module.compile` sets; there is no undo
