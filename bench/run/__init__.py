"""From settings to a finished cell: the only part that writes cells."""
