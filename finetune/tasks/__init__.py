"""Tasks: what a pretrained model is fine-tuned on."""

from .base import ExampleError, Predicted, Prediction, Purpose, Row, Task, TaskConfig, restored
from .classification import Classification, ClassificationConfig
from .summarization import Summarization, SummarizationConfig
from .translation import Translation, TranslationConfig

__all__ = [
    "Classification",
    "ClassificationConfig",
    "ExampleError",
    "Predicted",
    "Prediction",
    "Purpose",
    "Row",
    "Summarization",
    "SummarizationConfig",
    "Task",
    "TaskConfig",
    "Translation",
    "TranslationConfig",
    "restored",
]
