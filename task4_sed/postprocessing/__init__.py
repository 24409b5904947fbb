"""Median filters, event boxes (cSEBBs), and their tuning."""
