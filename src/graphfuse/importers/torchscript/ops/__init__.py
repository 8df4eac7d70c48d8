"""aten operators, a family a file: see `registry`."""
