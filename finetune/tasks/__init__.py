"""Tasks: what a pretrained model is fine-tuned on."""

from .base import ExampleError, Predicted, Prediction, Purpose, Row, Task, TaskConfig, restored
from .classification import Classification, ClassificationConfig

__all__ = [
    "Classification",
    "ClassificationConfig",
    "ExampleError",
    "Predicted",
    "Prediction",
    "Purpose",
    "Row",
    "Task",
    "TaskConfig",
    "restored",
]
