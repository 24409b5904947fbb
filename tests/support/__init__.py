"""What tests share: cases, fakes and fixtures of the official code."""
