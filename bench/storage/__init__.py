"""Bytes on disk and at addresses: files written whole or not at all, hashes, copies in a store."""
