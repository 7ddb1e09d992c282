"""The way from settings to a finished cell: the only room that writes cells."""
