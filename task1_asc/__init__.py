"""DCASE Task 1: data-efficient low-complexity acoustic scene classification."""
