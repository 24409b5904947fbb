"""Tests of sounds of every kind."""
