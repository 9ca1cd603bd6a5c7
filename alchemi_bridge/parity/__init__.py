"""Parity: cases x paths, compared with a reference.

A *case* is a structure with a potential; a *path* is one way to compute energy, forces, virial and
per-atom energies of it. Paths register themselves (:func:`alchemi_bridge.parity.paths.register`).
"""
