"""DCASE Task 4: sound event detection with heterogeneous data."""
