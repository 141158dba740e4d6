"""What ablations.py consists of: its rows, their measurement and its table."""
