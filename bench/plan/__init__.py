"""What a run will cost in passes, operations, bytes and hours, before anything is done."""
