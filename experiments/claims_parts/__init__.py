"""What claims.py consists of: the paper's findings, and the columns that they are checked on."""
