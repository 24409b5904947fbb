"""Student and teacher: as they detect, and as they train."""
