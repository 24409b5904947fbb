"""Fine-tuning a pre-trained network on DCASE 2016 Task 2 (office sounds)."""
