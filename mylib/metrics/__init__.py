"""Measures, each with its interval: what a mean, an F1 or a difference is worth."""

from .answers import exact_match, normalise, token_f1
from .entities import (
    EntityScores,
    Scores,
    entities,
    entity_counts,
    entity_f1,
    f1_of,
    is_tag,
    token_accuracy,
)
from .intervals import Interval, bootstrap, bootstrap_over, paired_difference, paired_excess

__all__ = [
    "EntityScores",
    "Interval",
    "Scores",
    "bootstrap",
    "bootstrap_over",
    "entities",
    "entity_counts",
    "entity_f1",
    "exact_match",
    "f1_of",
    "is_tag",
    "normalise",
    "paired_difference",
    "paired_excess",
    "token_accuracy",
    "token_f1",
]
