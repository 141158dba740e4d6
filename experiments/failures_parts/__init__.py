"""What failures.py consists of: its long-tailed set, measurement and pages."""
