"""Packaging and checking of challenge submissions."""
