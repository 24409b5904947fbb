"""The system that won DCASE 2024 Task 4: transformers, two iterations of two stages, pseudo-labels of an ensemble."""
