"""Runs that can be interrupted: a lock on their folder, the file that they fill, the rows still to be measured."""
