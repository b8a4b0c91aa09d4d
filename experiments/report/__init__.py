"""The report of a sweep: a notebook executed into report.ipynb and one self-contained report.html."""
