"""The parity matrix: many models, structures and engines, each cell compared with a reference."""
