"""python -m mylib.experiments.benchmark: see `mylib.experiments.benchmark`."""

from . import main

if __name__ == "__main__":
    main()
