"""``tdabench annotate``: people judge a blinded sample of the rankings, and judges are compared."""
