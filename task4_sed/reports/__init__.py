"""Report of a Task 4 run or sweep."""
