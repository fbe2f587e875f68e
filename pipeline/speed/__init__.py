"""How fast a labeler is here: each stage alone, all together, and the limit that both are held against."""
