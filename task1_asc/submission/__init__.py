"""Submission packages of 2024 and 2025."""
