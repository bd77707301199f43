"""``python -m selector.cli``: the `selector` command."""

from selector.cli import main

main()
