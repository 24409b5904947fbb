"""Checks of the kit on a GPU, in about nine minutes: `python -m tests.gpu`. On fake tensors they run anywhere."""
