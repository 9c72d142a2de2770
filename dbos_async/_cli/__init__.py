"""The commands of ``dbos-async``: one module for each group, with a function ``add_to`` that registers it.

`session` opens the database and turns every error into one sentence and an exit code (`exits`), `output` prints, `texts` makes what
others chose safe to print.
"""
