"""These are tools and a script, not tests: pytest need not look into them."""

collect_ignore_glob = ["*.py"]
