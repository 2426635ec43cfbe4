"""What the Trainer callback is made of: the fixed sample it measures, and the values it logs."""
