"""The one exception that Ontogeny raises at its public boundary."""


class OntogenyError(Exception):
    """Says what was expected, what came, and what to do next, in a sentence or two."""


class UsageError(OntogenyError):
    """The request itself is malformed; the command line answers with exit code 2."""
