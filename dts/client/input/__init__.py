"""Where lines come from: files one after the other, decompressed and decoded, and tables of columns."""
