"""What the three tasks share: audio, front ends, models, training, sweeps, reports."""
