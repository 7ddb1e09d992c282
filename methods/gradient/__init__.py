"""Gradient methods: one encoder with switches, from raw gradients to TrackStar."""
