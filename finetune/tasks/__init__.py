"""Tasks: what a pretrained model is fine-tuned on."""

from .base import Example, Task, TaskConfig
from .classification import Classification, ClassificationConfig

__all__ = ["Classification", "ClassificationConfig", "Example", "Task", "TaskConfig"]
