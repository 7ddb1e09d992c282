"""What a run will cost: passes, operations, bytes, hours, before anything is done."""
