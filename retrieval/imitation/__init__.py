"""Query by vocal imitation."""
