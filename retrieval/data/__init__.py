"""Captioned audio: tables, clips as batches, checks, downloads."""
