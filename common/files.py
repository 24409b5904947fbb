"""Moved to `common.data.files`."""

from common.data.files import atomic_path, atomic_write, human_size, sha256_of, write_json

__all__ = ["atomic_path", "atomic_write", "human_size", "sha256_of", "write_json"]
