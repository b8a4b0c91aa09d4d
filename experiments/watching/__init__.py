"""A sweep as it runs, for people who only look: in a terminal, and as a page of this machine. Nothing is written."""
