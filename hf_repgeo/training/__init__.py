"""Parts of the Trainer callback: the fixed sample that it measures, its schedule, and the values that it logs."""
