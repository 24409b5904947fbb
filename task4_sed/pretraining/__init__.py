"""Pre-training of frame models on AudioSet strong, and fine-tuning on DCASE 2016 Task 2."""
