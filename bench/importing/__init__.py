"""``tdabench import``: rankings made elsewhere become cells, judged like any other.

Data flows one way: ``settings`` (the words) → ``sources`` (the files) → ``release``, ``trec`` or
``bergson`` (a format each) → ``matching`` (to the task's queries and rows) → ``cells`` (evaluate
and write). ``judged`` stands in for matching and evaluating where no task is at hand. ``command``
does it for each ranking.
"""
