"""Task 1 networks: building them, their limits, teachers, and classification with trained ones."""
