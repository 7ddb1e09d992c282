"""``tdabench import``: rankings made elsewhere become cells, judged like any other.

Data flows one way: ``settings`` (the words) → ``sources`` (the files) → ``release``, ``trec`` or
``bergson`` (a format each) → ``matching`` (to the task's queries and rows) → ``cells``, which hand
the lists to the life of a cell (``bench.run.life``). ``judged`` stands in for matching and
measuring where no task is at hand.
"""
