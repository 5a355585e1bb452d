"""Fine-tuning: a model folder to a measured result."""
