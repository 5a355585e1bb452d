"""Sums of loss terms, over the terms of a micro batch and over micro batches."""

import torch

from lumbre.trainer.learner import Term, combined, total


def test_terms_count_by_their_weights_over_the_whole_steps_targets() -> None:
    terms = {"loss": Term(torch.tensor(6.0), 2), "balance": Term(torch.tensor(5.0), 1, weight=0.5)}
    assert float(combined(terms, {"loss": 4.0})) == 6.0 / 4
    assert float(combined(terms, {"loss": 4.0, "balance": 10.0})) == 6.0 / 4 + 0.5 * 5.0 / 10


def test_a_term_is_added_up_over_micro_batches_in_float64() -> None:
    parts = [torch.tensor(float(2**25)), torch.tensor(1.0), torch.tensor(1.0)]
    assert total(parts[:1]) == 2**25
    assert total(parts) == 2**25 + 2
