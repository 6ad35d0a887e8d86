"""The plugin against MMDetection's own head, both measured in one process.

:mod:`.timing` says how time and memory are measured, :mod:`.machine` on what, and :mod:`.inputs` makes the random maps
and objects, so that no measurement needs a data set. Every other file measures one topic and returns rows of the table.
"""
