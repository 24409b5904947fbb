"""The CRNN baseline with a mean teacher."""
