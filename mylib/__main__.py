"""``python -m mylib audit | doctor | pretrain | train | write``."""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {
    "audit": "measure who sees whom in a saved model",
    "doctor": "check whether this installation will run the course",
    "pretrain": "rebuild the shipped checkpoints",
    "train": "train a model on your own text",
    "write": "write pages with a shipped model, in any order",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mylib", description=__doc__.replace("``", ""))
    chosen = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    arguments = sys.argv[1:] if arguments is None else arguments
    wanted = next((a for a in arguments if a in COMMANDS), None)
    for name, line in COMMANDS.items():
        command = chosen.add_parser(name, help=line, description=line)
        if name == wanted:  # only the command that runs is imported
            module = importlib.import_module(f"mylib.commands.{name}")
            module.add(command)
    options = parser.parse_args(arguments)
    try:
        return module.run(options)
    except (ValueError, TypeError, OSError) as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
