"""`python -m ontogeny` is the command `ontogeny`."""

from ontogeny.cli.main import main

main()
