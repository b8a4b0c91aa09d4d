"""Models leave and enter: files of weights as other programs write and read them."""
