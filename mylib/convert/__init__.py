"""Conversions: open a decoder of transformers, check it, and exchange weights with GPT-2.

opening    make_bidirectional(model) -> Opened, with undo()
checking   check_bidirectional(model), NotBidirectional
encoder    Encoder(name or folder): a decoder opened and used as an encoder
gpt2       load_gpt2(model or folder) -> our GPT, to_gpt2(GPT) -> GPT2LMHeadModel
words      with_vocabulary(GPT, old tokens, new tokens) -> GPT over fewer tokens
"""

from .checking import NotBidirectional, check_bidirectional
from .encoder import Encoder
from .gpt2 import load_gpt2, to_gpt2
from .opening import Opened, make_bidirectional
from .words import with_vocabulary

__all__ = [
    "Encoder",
    "NotBidirectional",
    "Opened",
    "check_bidirectional",
    "load_gpt2",
    "make_bidirectional",
    "to_gpt2",
    "with_vocabulary",
]
