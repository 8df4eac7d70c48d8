"""The way out: the rewritten model in a form that other frameworks read."""
