"""Functions that show how DTS behaves: slow ones, and ones that fail."""
