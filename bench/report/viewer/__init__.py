"""The viewer: static pages, without server, over the rankings of finished cells.

``index.html`` holds the program and its style; what it shows lies in ``data/*.js``, each a call of
one function with a compressed JSON text, because a page opened as a file may load scripts and
nothing else. Passages are stored once for all methods and queries, in chunks loaded on demand.
"""
