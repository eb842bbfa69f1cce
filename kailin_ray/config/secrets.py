"""Values without secrets, for logs and manifests."""

import re
from typing import Any

# Such as hf_token, aws_secret_access_key, api_key; not max_tokens, pad_token_id or monkey.
_SECRET = re.compile(
    r"(^|[._-])(\w*token|\w*secret\w*|pass(word|wd|phrase)?|key|credentials?)$|key_?id$", re.IGNORECASE
)

_PASSWORD = re.compile(r"://[^/@\s]+@")


def without_secrets(value: Any, name: str = "") -> Any:
    """Return the same values without texts whose names say that they are secret, and without passwords in URLs."""
    if isinstance(value, dict):
        return {key: without_secrets(part, str(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(part, name) for part in value]
    if isinstance(value, str):
        return "(secret)" if value and _SECRET.search(name) else _PASSWORD.sub("://(secret)@", value)
    return value
