"""What the paper reports, claim by claim, beside what the cells of a results folder show."""
