"""Audio tagging: training on AudioSet with a teacher's logits, and fine-tuning on other data."""
