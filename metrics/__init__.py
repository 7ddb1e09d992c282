"""How a ranking is judged. This package never imports ``methods``.

``attribution`` scores lists against annotated passages, ``bootstrap`` puts intervals on the means.
"""
