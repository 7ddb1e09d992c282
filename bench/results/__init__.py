"""Finished cells: their schema, their values per query, and their recomputation. Makes none."""
