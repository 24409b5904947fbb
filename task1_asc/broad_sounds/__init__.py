"""Sounds of every kind: DCASE 2026 Task 1, heterogeneous audio classification with the Broad Sound Taxonomy."""
