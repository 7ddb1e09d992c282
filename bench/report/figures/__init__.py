"""Figures of a leaderboard in one style: PNG, SVG, PDF and the numbers behind each as CSV.

The data of a figure are collected from finished cells first (``catalog``, ``methods``, ``sweeps``),
without matplotlib; only a figure with data is drawn (``drawing``), from the very rows of its CSV.
"""
