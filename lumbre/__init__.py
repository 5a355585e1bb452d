"""Lumbre takes raw text to a pretrained Transformer to a fine-tuned model."""

from lumbre.import_hook import when_imported

__version__ = "0.1.0"

when_imported()
