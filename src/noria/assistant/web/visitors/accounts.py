"""Accounts of people: a name and a passphrase, of which a slow hash is kept beside the gateway's control documents."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from noria.core.storage.control import Document, SQLControl, StaleVersion

KIND = "page-account"
"""Kind of the documents that hold accounts."""
TAKEN = "page-taken-guest"
"""Kind of the documents that say which guests became accounts; their keys are digests of the guests' names."""
NAME = re.compile(r"[\w.-]{3,40}")
LEAST, MOST = 12, 200
"""Fewest and most characters of a passphrase."""
# OWASP's Password Storage Cheat Sheet has N = 2^15, r = 8, p = 3 among its equal choices; it takes 32 MiB.
_COST = {"n": 1 << 15, "r": 8, "p": 3}


@dataclass(frozen=True)
class Account:
    """An account with a name and a passphrase.

    Attributes:
        key: key of its document.
        name: name as its owner wrote it.
        user: name under which the gateway knows the user.
        generation: number that grows when every browser is signed out; it begins anywhere, so that the cookie of a
            deleted account does not open the next one of its name.
        version: version of its document.
    """

    key: str
    name: str
    user: str
    generation: int
    version: int


class Accounts:
    """Accounts in the control store.

    Args:
        control: documents of the gateway.
    """

    def __init__(self, control: SQLControl) -> None:
        self.control = control
        self._hashing = asyncio.Semaphore(2)  # each takes 32 MiB

    def of_key(self, key: str) -> Account | None:
        """The account of a key, if there is one."""
        document = self.control.read(KIND, key)
        if document is None or document.value is None:
            return None
        return _account(document)

    def all(self) -> list[Account]:
        """Every account that there is, by key."""
        return [_account(one) for one in self.control.read_all(KIND)]

    async def make(self, name: str, passphrase: str, user: str) -> Account | None:
        """Make an account for a user; None where its name is taken."""
        key, generation = key_of(name), secrets.randbits(48)
        if self.of_key(key) is not None:
            return None
        value = {"name": name, "user": user, "generation": generation, **await self._hashed(passphrase)}
        try:
            self.control.write(TAKEN, _digest(user), {}, based_on=0, by="page")
        except StaleVersion:  # another window of the same guest was faster
            return None
        try:
            version = self._version(key)
            document = self.control.write(KIND, key, value, based_on=version, by="page")
        except StaleVersion:
            self.control.purge(TAKEN, _digest(user))
            return None
        return Account(key, name, user, generation, document.version)

    def is_taken(self, guest: str) -> bool:
        """Whether a guest became an account: whoever has the guest's cookie must not read what is the account's."""
        return self.control.read(TAKEN, _digest(guest)) is not None

    async def sign_in(self, name: str, passphrase: str) -> Account | None:
        """The account of a name, where the passphrase is its own. A name that is not there takes as long."""
        key = key_of(name)
        document = self.control.read(KIND, key)
        value: dict[str, Any] = (document.value if document else None) or {"salt": "00" * 16, "hash": "00"}
        hashed = await self._hashed(passphrase, bytes.fromhex(value["salt"]))
        if document is None or not hmac.compare_digest(hashed["hash"], value["hash"]):
            return None
        return _account(document)  # as it was when the passphrase was right

    async def change(self, account: Account, passphrase: str) -> Account:
        """Give an account another passphrase, which signs every browser out.

        Raises:
            StaleVersion: it was changed at the same moment.
        """
        value = {"name": account.name, "user": account.user, "generation": account.generation + 1}
        value |= await self._hashed(passphrase)
        document = self.control.write(KIND, account.key, value, based_on=account.version, by="page")
        self.control.thin(KIND, account.key, keep=1)
        return replace(account, generation=account.generation + 1, version=document.version)

    def remove(self, account: Account) -> None:
        """Remove an account with its history."""
        self.control.purge(KIND, account.key)
        self.control.purge(TAKEN, _digest(account.user))

    def _version(self, key: str) -> int:
        document = self.control.read(KIND, key)
        return 0 if document is None else document.version

    async def _hashed(self, passphrase: str, salt: bytes | None = None) -> dict[str, str]:
        salt = salt or secrets.token_bytes(16)
        text = unicodedata.normalize("NFKC", passphrase).encode("utf-8", "surrogatepass")
        async with self._hashing:
            digest = await asyncio.to_thread(
                hashlib.scrypt, text, salt=salt, maxmem=64 << 20, dklen=32, **_COST
            )
        return {"salt": salt.hex(), "hash": digest.hex()}


def key_of(name: str) -> str:
    """Key of a name: the same for every way to write it."""
    plain = unicodedata.normalize("NFKC", name).casefold().strip()
    return _digest(plain)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _account(document: Document) -> Account:
    value: Mapping[str, Any] = document.value or {}
    return Account(document.key, value["name"], value["user"], value["generation"], document.version)


def is_name(name: str) -> bool:
    """Whether a text can be the name of an account."""
    return NAME.fullmatch(unicodedata.normalize("NFKC", name).strip()) is not None
