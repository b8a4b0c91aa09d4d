"""The same numbers, faster: derivatives by hand and layouts that a processor likes. Nobody must read them."""
