"""Precision, recall and F1 of entities, as conlleval counts them (Nakayama, 2018, the package seqeval)."""

import warnings
from collections.abc import Sequence

Tags = Sequence[Sequence[str]]
"""Sentences as lists of tags, in IOB2: B- begins an entity, I- goes on with it, O is outside."""


def entities(predictions: Tags, references: Tags) -> dict[str, float]:
    """Return f1, precision and recall of whole entities (micro averages), and the accuracy of tags.

    An entity is right where its type and both its ends are. An I- tag that follows nothing of its type begins
    an entity, as in conlleval and in run_ner. Where there is no entity, F1 is 0.
    A sentence has as many tags in both.
    """
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

    meant, found = [list(tags) for tags in references], [list(tags) for tags in predictions]
    with warnings.catch_warnings():
        # Tags without a prefix, as those of parts of speech, have an accuracy alone.
        warnings.filterwarnings("ignore", message=".*seems not to be NE tag")
        return {
            "f1": float(f1_score(meant, found, zero_division=0)),
            "precision": float(precision_score(meant, found, zero_division=0)),
            "recall": float(recall_score(meant, found, zero_division=0)),
            "accuracy": float(accuracy_score(meant, found)),
        }
