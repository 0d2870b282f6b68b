"""Heads for reading: tags, spans, classes, over our GPT or a model of transformers.

base      TokenClassifier, SpanExtractor, SequenceClassifier: what `fit` trains
pieces    words and the tokens they are cut into
viterbi   BIO tags that fit together
reading   read_tags, read_spans: what a trained head says
silence   no answer, and contexts longer than a window
"""

from .base import Head, SequenceClassifier, SpanExtractor, TokenClassifier, pooled
from .pieces import align, tagged
from .reading import Span, best_span, read_spans, read_tags
from .silence import best_of_windows, choose_threshold, windows
from .viterbi import bio_steps, viterbi

__all__ = [
    "Head",
    "SequenceClassifier",
    "Span",
    "SpanExtractor",
    "TokenClassifier",
    "align",
    "best_of_windows",
    "best_span",
    "bio_steps",
    "choose_threshold",
    "pooled",
    "read_spans",
    "read_tags",
    "tagged",
    "viterbi",
    "windows",
]
