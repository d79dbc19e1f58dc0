"""The long drawn campaign: run.py has the command, docs/fuzz.md what it checks."""
