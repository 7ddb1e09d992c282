"""Bytes on disk and at addresses: whole files and folders, their hashes, copies in a store."""
