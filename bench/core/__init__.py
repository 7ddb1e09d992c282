"""Tools that every other room may use: errors, progress, registries, typed settings, names."""
