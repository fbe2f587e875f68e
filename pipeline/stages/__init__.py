"""What happens to one unit: read, decode, classify, write. Stages do not know each other."""
