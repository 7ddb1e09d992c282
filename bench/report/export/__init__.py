"""Finished cells in the formats of others: TREC runs with qrels, a data set for the Hub."""
