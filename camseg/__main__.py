"""``python -m camseg``, and the console script."""

from camseg.cli import main

if __name__ == "__main__":
    main()
