"""Tasks: what a pretrained model is fine-tuned on."""

from .base import ExampleError, Predicted, Prediction, Purpose, Row, Task, TaskConfig, restored
from .chat import Chat, ChatConfig
from .classification import Classification, ClassificationConfig
from .embedding import Embedding, EmbeddingConfig
from .question_answering import QuestionAnswering, QuestionAnsweringConfig
from .summarization import Summarization, SummarizationConfig
from .token_classification import TokenClassification, TokenClassificationConfig
from .translation import Translation, TranslationConfig

__all__ = [
    "Chat",
    "ChatConfig",
    "Classification",
    "ClassificationConfig",
    "Embedding",
    "EmbeddingConfig",
    "ExampleError",
    "Predicted",
    "Prediction",
    "Purpose",
    "QuestionAnswering",
    "QuestionAnsweringConfig",
    "Row",
    "Summarization",
    "SummarizationConfig",
    "Task",
    "TaskConfig",
    "TokenClassification",
    "TokenClassificationConfig",
    "Translation",
    "TranslationConfig",
    "restored",
]
