"""The Hub: push reports and Spaces, card sections, the results data set."""
