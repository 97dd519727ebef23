"""What is in a data set: numbers (`statistics`) and a page to look at (`cards` or `batches`, drawn by `page`).

`tools.inspect` is the command line.
"""
