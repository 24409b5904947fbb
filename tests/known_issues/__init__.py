"""Faults that were reported: one file each, with the smallest input that shows it and the right answer."""
