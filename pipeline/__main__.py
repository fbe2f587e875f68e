"""``python -m pipeline`` is ``shardlabel``."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
