"""What a study found, factor by factor, in sentences: `kleiber ask`, the top of a report, the last lines of a sweep."""
