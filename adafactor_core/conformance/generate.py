"""`python -m adafactor_core.conformance.generate`: rewrite vectors.json from the oracle."""

from ._vectors import FILE, write

if __name__ == "__main__":
    print(f"{FILE}: {write()} bytes")
