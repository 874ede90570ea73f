"""``python -m chunkinfer.tools.cli``."""

from chunkinfer.tools.cli import run

if __name__ == "__main__":
    run()
