"""The Lightning trainer, its callbacks, schedules and checkpoints."""
