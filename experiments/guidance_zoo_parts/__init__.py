"""What guidance_zoo.py consists of: its settings, their rows, verdicts and pages."""
