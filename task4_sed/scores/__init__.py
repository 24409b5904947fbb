"""Score tables and stores, and ensembles of them."""
