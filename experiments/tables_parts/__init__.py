"""What table1.py and table2.py consist of: runs that fill a table's columns, and its layout."""
