"""`python -m ganlib` is the command `ganlib`."""

from ganlib.cli import main

if __name__ == "__main__":
    main(prog_name="ganlib")
