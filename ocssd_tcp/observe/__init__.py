"""What the daemon shows of itself to its operator. Imported by the composition root and the daemon's CLI."""
