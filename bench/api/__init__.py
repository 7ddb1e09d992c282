"""What Python programs call, for which ``tdabench.py`` has the names.

A function here says in Python what a command says in words; whatever it does is done by the rooms
below. It raises ``UserError`` for a mistake of its caller, and leaves the process as it was: Hydra,
the seeds of torch, and the model that it is lent.
"""
