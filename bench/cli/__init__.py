"""The command ``tdabench``: one module a command."""
