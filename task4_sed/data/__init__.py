"""DESED and MAESTRO Real: sets, clips, annotations, frozen embeddings."""
