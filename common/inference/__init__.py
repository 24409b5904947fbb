"""Trained models at work: complexity, quantization, export, tagging, embeddings."""
