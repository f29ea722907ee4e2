"""Data sets: one function per source, each returning `Splits`."""
