"""Figures of a leaderboard in one style: PNG, SVG, PDF and the numbers behind each as CSV.

What a figure shows is collected from finished cells first (``catalog``, ``methods``, ``sweeps``),
without matplotlib; only what has data is drawn (``drawing``), from the very rows of its CSV.
"""
