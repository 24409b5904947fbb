"""DCASE 2026 Task 6: the moments of a long recording that a sentence describes."""
