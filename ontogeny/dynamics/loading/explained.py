"""What is said of a request to the Hub that failed."""

from __future__ import annotations

import re

from ontogeny.dynamics.loading.quiet import reason

_SECRETS = (
    (re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*"), r"\1"),  # signed addresses of files
    (re.compile(r"(https?://)[^/\s@'\"]+@"), r"\1"),
    (re.compile(r"(Bearer\s+)[^\s'\"\\]+", re.IGNORECASE), r"\1..."),
    (re.compile(r"\bhf_[A-Za-z0-9]{4,}"), "hf_..."),
)


def explained(repository: str, error: Exception) -> str:
    """Why `repository` could not be asked or fetched from, and what to do, without anything secret."""
    from huggingface_hub import constants, errors

    at_the_hub = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    told = without_secrets(reason(at_the_hub or error))
    if isinstance(error, errors.GatedRepoError):
        return f"{repository} is gated: ask for access on its page at the Hub, then log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return (
            f"there is no model repository {repository} on the Hub, nor a folder of that name: check the spelling, or "
            "log in with `hf auth login` if it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"a revision of {repository} that was asked for is not on the Hub ({told}): leave its step out"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{repository} lacks a file that every model has ({told}): expected a model saved by transformers"
    if constants.is_offline_mode():
        return not_cached(repository)
    return (
        f"the Hub could not be asked for {repository}, which is no folder here ({told}): check the network "
        "and try again, or set HF_HUB_OFFLINE=1 to use what is in the local cache"
    )


def not_cached(what: str) -> str:
    """That `what` would have to be downloaded, and may not be."""
    return (
        f"{what} is not wholly in the local cache of the Hub, and HF_HUB_OFFLINE is set: unset it to download "
        "(or is a folder meant? there is none of that name here)"
    )


def without_secrets(text: str) -> str:
    """What a client says, without tokens, passwords and signed addresses."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
