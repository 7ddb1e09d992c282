"""Optimizers' states as trainers leave them, read as second moments by parameter name.

``reading`` tells the forms of files and folders apart; ``entries`` takes a ``state_dict`` apart;
``kinds`` knows what optimizers keep of one parameter; ``places`` names those that a state has
numbers for; ``converting`` writes any of them as one name-keyed file.
"""
