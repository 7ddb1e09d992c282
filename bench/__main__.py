"""``python -m bench`` is the same as ``tdabench``."""

from bench.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
