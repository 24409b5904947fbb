"""DCASE Task 8: language-based audio retrieval, and query by vocal imitation."""
