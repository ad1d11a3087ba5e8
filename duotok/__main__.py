"""`python -m duotok` is `duotok`."""

from .cli import main

if __name__ == "__main__":
    main()
