"""How good a tokenisation is: figures, table and page."""
