"""Parts that a run does without. Each folder can be read alone, and be deleted together with its
folder in tests/parts/: nothing else breaks.

A part is a package here whose `ENTRIES` name what it adds to the catalog: MODULE:NAME by name, by
section. A package of your own says the same as entry points (docs/adding.md). If a part uses other
parts, `NEEDS` names them; without them it is left out.
"""
