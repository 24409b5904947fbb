"""Run folders, stages, sweeps, SLURM and energy."""
