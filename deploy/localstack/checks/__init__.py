"""Checks of the repository that need more than a linter. Each is a command: `python -m localstack.checks.<name>`."""
