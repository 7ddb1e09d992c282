"""The viewer of the rankings of finished cells: static pages that need no server.

``index.html`` holds the program and its style. The data lie in ``data/*.js``, each a call of one
function with a compressed JSON text, because a page that is opened as a file may load scripts and
nothing else. Passages are stored once for all methods and queries, in chunks that are loaded on
demand.
"""
