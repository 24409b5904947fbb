"""Compares what the kit's trainings compute with fixtures of the official code: python -m tests.check_training FOLDER.

Modules of this package check one family of trainings each; `check` of `fixtures` registers a function for a kind of
fixture.
"""
