"""``python -m bench`` is the same as ``tdabench``."""

from tdabench import main

if __name__ == "__main__":
    raise SystemExit(main())
