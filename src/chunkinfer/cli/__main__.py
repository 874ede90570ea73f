"""``python -m chunkinfer.cli``."""

from chunkinfer.cli import run

if __name__ == "__main__":
    run()
