"""The comparison: records -> selection -> statistics -> tables -> rendering. Imports no training code.

Each step is a module and hands data to the next: `records.read` turns folders of any harness into one tidy frame,
`selection.select` picks the checkpoint of every cell, `tables.build` computes the tables, and the renderers only print
them.
"""
