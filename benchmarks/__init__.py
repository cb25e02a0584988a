"""What it costs, and what harm does: the commands of `velo bench`. Figures are printed, never asserted.

`whole` is `velo bench` itself: its parts are in `parts_…`, each calls contenders in turn by `rounds`, and `page` writes what they
found. The other commands are modules of their own name. `faults` makes the harm of `fault_scenes` and `damage_scenes` to copies of
one store (`harm`), and `kills` its processes. `ground` loads stores of a given size and measures a call in a process of its own.
"""
