"""Report pages, plots and statistics."""
