"""Pretraining: from raw text to a model folder."""
