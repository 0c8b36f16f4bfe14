"""Pages of the documentation that are written from the code: commands, settings, calls, events.

`reference.hook` gives them to mkdocs when it builds the site; none of them is kept in the tree.
"""
