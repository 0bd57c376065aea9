"""Addresses without what could be secret in them, and the secrets themselves, which processes hand on and never write.

Of an address its scheme, hosts, ports and path are kept; user, password, query, parameters and fragment are not, whatever they are called. A
config holds addresses in this form, so that whatever is made of it may be shown to others; `restore_secrets` gives them back to what is built.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from facenet.errors import UserError

VARIABLE = "FACENET_SECRETS"  # JSON list of addresses, which processes have from those that started them
LONGEST = 100_000  # bytes of it: Linux takes 128 kB in one variable
HIDDEN = "***"
SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*://"
# Where a query, a fragment or parameters begin for certain: each may hold an @.
QUERY = re.compile(r"[?#;][\w.~%\-\[\]]+=")
HOST = r"(?:[^\s:,@/\\\[\]]*|\[[0-9A-Fa-f:.%]*\])(?::\d{1,5}|:\{[\d.,]+\})?"
HOSTS = re.compile(f"{HOST}(?:,{HOST})*")
LISTED = re.compile(rf"(::|[,|]+|(?<=/))(?={SCHEME})")  # several in one value; one in the path of another
IN_TEXT = re.compile(rf"{SCHEME}[^\s'\"<>`]*|pipe:[^\s'\"].*", re.IGNORECASE)
# What libraries tell of an address without its beginning.
NAMED = re.compile(
    r"((?:^|[?&;\s])[\w\-]*(?:password|passwd|passphrase|pwd|secret|token|api_?key|access_?key|signature|sig|credential)=)[^\s&;,'\"]+",
    re.IGNORECASE,
)
RELATIVE = re.compile(r"(?<=[\w/])\?[\w.~%\-]+=[^\s'\"]*")
PIECE = re.compile(r"[\w.~\-]{3,}")


def mask(text: str) -> str:
    """A line or a name without the secrets of the addresses in it, which end at a blank or a quotation mark."""
    return NAMED.sub(rf"\1{HIDDEN}", RELATIVE.sub(f"?{HIDDEN}", in_text(text)))


def in_text(text: str) -> str:
    return IN_TEXT.sub(lambda found: masked_address(found[0]), text)


def masked_address(text: str) -> str:
    """Masks a value that is an address as a whole, or several joined by `::` or commas; it may hold any character."""
    if text.lower().startswith("pipe:"):
        return f"pipe:{HIDDEN}"
    if not re.match(SCHEME, text):
        return mask_odd(in_text(text))
    parts = LISTED.split(text)  # address, what joins it to the next, address, ...
    if re.search(r"[?#@]", parts[0]) and parts[1:2] == [""]:  # within a query, or a password
        parts = [text]
    return "".join(part if position % 2 else mask_one(part) for position, part in enumerate(parts))


def mask_odd(text: str) -> str:
    """Masks what becomes an address when its braces are expanded, or would be one with the scheme that was forgotten."""
    if re.search(r"[{}]\S*:(?:/|\{)|:\{?/\{?/\S*[{}]", text):
        text = re.sub(r"[?#;][^\s'\"{}]*", f"?{HIDDEN}", text)
        return re.sub(r"(?<=[/}])[^\s/@{}]*@", f"{HIDDEN}@", text)
    return re.sub(r"^(//)?[^\s/@:]*:[^\s/@]*@(?=[\w.\-]+(?::\d+)?(?:/|$))", rf"\1{HIDDEN}@", text)


def mask_one(address: str) -> str:
    """Clients differ in where they take a password with @ / ? or # in it to end; what could be one is left out."""
    scheme, rest = re.match(f"({SCHEME})(.*)", address, re.DOTALL).groups()  # type: ignore[union-attr]  # checked by the callers
    local = rest.startswith("/")  # a file: of a database in one, @ # and ; are characters like others
    known = re.search(r"\?", rest) if local else QUERY.search(rest)
    head = rest[: known.start()] if known else rest
    user, host = "", head
    if "@" in head and not local and not plain_host(scheme, head):
        user, host = f"{HIDDEN}@", head.rpartition("@")[2]
    end = re.search(r"\?" if local else r"[?#;]", host)
    path = host[: end.start()] if end else host
    if not local and HOSTS.fullmatch(path.partition("/")[0]) is None:  # nothing that is looked up: part of a password
        return f"{scheme}{HIDDEN}"
    dropped = (host + rest[len(head) :])[len(path) :]
    return f"{scheme}{user}{path}{dropped[0]}{HIDDEN}" if dropped[1:] else f"{scheme}{user}{path}"


def plain_host(scheme: str, head: str) -> bool:
    """Whether the @ in what follows the scheme belongs to the path: a host stands before it, as web addresses have them."""
    before = re.split(r"[/?#]", head, maxsplit=1)[0]
    return (
        "@" not in before
        and HOSTS.fullmatch(before) is not None
        and ("." in before or ":" in before or before == "localhost")
        and scheme.lower() in ("http://", "https://", "s3://", "gs://", "models://")
    )


def without_secret(value: str) -> bool:
    """Whether a value is an address in its recorded form, whose secret has to be given again."""
    return HIDDEN in value and re.search(SCHEME, value) is not None and masked_address(value) == value


def hide_secrets(node: Any) -> Any:
    """Nested dicts and lists with every address in the form that may be recorded. What that leaves out is kept for `restore_secrets`, here and in the
    processes that this one starts."""
    found: list[str] = []
    hidden = each_text(node, lambda text: hide(text, found))
    if found:
        remember(found)
    return hidden


def hide(text: str, found: list[str]) -> str:
    hidden = masked_address(text)
    if hidden != text:
        found.append(text)
    return hidden


def restore_secrets(node: Any) -> Any:
    """Returns the config with the addresses as they were given, as far as they are known here."""
    known = secrets()

    def given(text: str) -> str:
        if HIDDEN not in text:
            return text
        return known.get(text) or IN_TEXT.sub(lambda found: known.get(found[0], found[0]), text)

    return each_text(node, given) if known else node


def restored_address(address: str, key: str) -> str:
    """Returns one address as it was given, before it is opened. Raises UserError that names the key where its secret is not known."""
    found: str = restore_secrets(address)
    if without_secret(found):
        raise UserError(f"{key}: {found} is recorded without its secret; give it again: {key}=...")
    return found


def kept_in(argument: str) -> str:
    """Does what `hide_secrets` does, for text that holds addresses and is none."""
    return IN_TEXT.sub(lambda found: str(hide_secrets(found[0])), argument)


def each_text(node: Any, change: Callable[[str], str]) -> Any:
    if isinstance(node, dict):
        return {key: each_text(value, change) for key, value in node.items()}
    if isinstance(node, list):
        return [each_text(value, change) for value in node]
    return change(node) if isinstance(node, str) else node


def secrets() -> dict[str, str]:
    """Address as it is recorded -> as it was given; of several of one form the newest. The store's of the environment is one."""
    given = [os.environ.get("MLFLOW_TRACKING_URI", ""), *json.loads(os.environ.get(VARIABLE, "[]"))]
    return {masked_address(address): address for address in given if masked_address(address) != address}


def remember(addresses: Iterable[str]) -> None:
    known = [*json.loads(os.environ.get(VARIABLE, "[]"))]
    newest = {masked_address(address): address for address in (*known, *addresses)}
    text = json.dumps(list(newest.values()))
    if len(text) > LONGEST:
        raise UserError(
            f"config: its addresses with secrets take {len(text):,} bytes, at most {LONGEST:,} can be handed on; "
            "name a folder or a pattern instead of each file"
        )
    os.environ[VARIABLE] = text


def masked_in(text: str, address: str) -> str:
    """Returns what a client says about an address that it was given, without any piece of its secret: it may have cut it anywhere."""
    hidden = masked_address(address)
    if hidden == address:
        return mask(text)
    text = mask(text.replace(address, hidden))
    before, after = (set(PIECE.findall(f"{each} {unquote(each)}")) for each in (address, hidden))
    for piece in sorted(before - after, key=len, reverse=True):
        text = text.replace(piece, HIDDEN)
    return text
