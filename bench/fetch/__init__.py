"""Downloads public releases: resumable, verified, and only when asked."""
