"""Build the Gazette's ranks file: ``python -m mylib.experiments.ranks``.

Lexicon first (every word of both editions), then the bytes that are not words themselves, then
byte-pair merges learned on Tiny Shakespeare, for text that the Gazette did not write.
"""

from __future__ import annotations

import argparse

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ..datasets import tiny_shakespeare
from ..files import data_path
from ..grammar import load_grammar
from ..vocabulary import save_ranks


def learned_merges(text: str, count: int) -> list[bytes]:
    """The first ``count`` byte-pair merges of a text, in order of learning."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + count, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    # The trainer writes bytes as printable characters, GPT-2's table; read them back.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(others)}
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [bytes(byte_of[c] for c in token) for token, _ in by_id if len(token) > 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merges", type=int, default=200)
    options = parser.parse_args()
    editions = [load_grammar(data_path(name)) for name in ("gazette-small.toml", "gazette.toml")]
    units = sorted({unit for edition in editions for unit in edition.units()})
    lexicon = [unit.encode() for unit in units]
    single = [bytes([byte]) for byte in range(256) if bytes([byte]) not in lexicon]
    merges = [m for m in learned_merges(tiny_shakespeare(), options.merges) if m not in lexicon]
    tokens = [*lexicon, *single, *merges]
    save_ranks(data_path("gazette.toml").with_name("gazette.tiktoken"), tokens)
    print(f"{len(lexicon)} words, {len(single)} bytes, {len(merges)} merges")


if __name__ == "__main__":
    main()
