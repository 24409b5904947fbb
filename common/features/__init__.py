"""Spectrograms and augmentation."""
