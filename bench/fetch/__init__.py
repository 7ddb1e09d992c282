"""Downloads of public releases: resumable, verified, and only when asked for."""
