"""The training loop, and what it asks of objectives and tasks."""

from lumbre.trainer.config import BatchConfig, TrainConfig
from lumbre.trainer.learner import Batch, Learner, LossOutput, Term
from lumbre.trainer.loop import Trainer
from lumbre.trainer.non_finite import NonFiniteConfig
from lumbre.trainer.parts import Batches, Evaluator, Probes, Selection, Watch

__all__ = [
    "Batch",
    "BatchConfig",
    "Batches",
    "Evaluator",
    "Learner",
    "LossOutput",
    "NonFiniteConfig",
    "Probes",
    "Selection",
    "Term",
    "TrainConfig",
    "Trainer",
    "Watch",
]
