"""A table of measured points in, a law with honest intervals out. Needs no device and no training code.

A folder imports only from those before it: law.py, laws, table; fitting; forecasting; explaining; designing; figures.
"""
