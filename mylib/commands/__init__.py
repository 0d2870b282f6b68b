"""The commands behind ``python -m mylib``, one module each (``add``, ``run``), and their parts."""
