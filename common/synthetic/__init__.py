"""Made-up data sets in the official layout of each task."""
