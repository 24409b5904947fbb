"""Clips on disk: audio files, tables, labels, downloads, packed and encoded stores."""
