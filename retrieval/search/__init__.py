"""Search a folder of audio: by words, by example, by voice. Exact, by matrix products in pieces."""
