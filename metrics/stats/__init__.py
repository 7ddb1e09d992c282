"""Statistics of scores: intervals, paired tests, agreement, rank correlation."""
