"""Hydra configuration of tdabench, shipped as package data."""
