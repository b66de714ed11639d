"""The command ``flowmaps``: parse, call, print. Each command is a module with ``run(arguments) -> exit code``."""
