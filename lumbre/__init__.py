"""Lumbre takes raw text to a pretrained Transformer to a fine-tuned model."""

__version__ = "0.1.0"
