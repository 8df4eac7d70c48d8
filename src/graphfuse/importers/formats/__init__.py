"""Forms of model files, one a file: what marks its contents, and what reads it."""
