"""
The pages of docs/ that are made from the code, each by the module of its name; `scripts/docs` writes them all.

A page that is not what its module makes of the code fails a test, so nothing is documented that is not there, and
nothing is there that is not documented. `pages.all` is the list.
"""
