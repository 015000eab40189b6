"""``python -m segops``."""

from segops.cli import main

if __name__ == "__main__":
    main()
