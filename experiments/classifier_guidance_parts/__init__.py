"""What classifier_guidance.py consists of: the methods that it compares, and its table."""
