"""Tuning: what the cost model finds close is measured, inside the model, on the machine at hand.

`database.py` keeps what was measured, by the text of the kernels and their sizes, so that repeated blocks are measured
once and the next model with such blocks starts warm. `clock.py` takes the time of every call of a whole model, so that
a kernel is timed with the caches as its neighbours leave them. `tuner.py` decides which whole models to compare.
"""
