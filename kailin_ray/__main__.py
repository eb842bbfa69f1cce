"""``python -m kailin_ray``."""

from kailin_ray.cli.main import main

if __name__ == "__main__":
    main()
