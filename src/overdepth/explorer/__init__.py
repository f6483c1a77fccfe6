"""The explorer behind ``overdepth explore``: controls, and the pictures that they set.

Every view is a table of controls and one function from their values to figures; ``app.py`` lays them out. Needs the
extra ``explore``, for the page alone: the functions need ``lab``.
"""
